"""Which runs of an experiment are still missing, and running them.

An experiment is a list of cells; a cell is one run in a folder of its own. Finished runs are read
back, never repeated. A run that was interrupted or failed starts over in an experiment, and goes on
in a sweep. Several processes share the work, one run at a time each: results do not depend on how
many.
"""

import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.finished import Finished, check_same_options
from experiments.lock import locked
from experiments.options import check_options
from experiments.run_options import RunOptions
from experiments.workers import run_all
from fedsim.errors import ConfigError
from fedsim.folder import read_json
from fedsim.record import Run, is_finished


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of an experiment.

    Attributes:
      name: folder of the run, unique in the experiment.
      options: everything the run depends on.
      central: whether the model is trained on all data at once instead of on devices.
      epochs: of central training; None is its own default.
    """

    name: str
    options: RunOptions
    central: bool = False
    epochs: int | None = None


def finish(cells: Sequence[Cell], folder: Path, processes: int) -> dict[str, Run]:
    """Run what is missing and read everything back.

    Args:
      cells: the runs.
      folder: a run's files go to `folder / cell.name`.
      processes: runs at a time; 1 runs them in this process. With more, a script that calls this
        needs the usual `if __name__ == "__main__":` guard.

    Returns:
      Cell name to run, in the order of `cells`.

    Raises:
      ConfigError: options that cannot be run, before anything is; a folder that another process
        works in, or that holds a finished run of other options or other data; or runs that failed.
        What is finished is kept and the same call goes on from there.
    """
    finished = _checked(cells, folder)
    if len(finished.runs) < len(cells):
        with locked(folder):
            _run_missing(cells, finished, processes)
    return {cell.name: finished.runs[cell.name] for cell in cells}


def carry_on(cells: Sequence[Cell], folder: Path, processes: int) -> dict[str, Run | BaseException]:
    """Run what is missing, from where it stopped, and go on without the cells that fail.

    Args:
      cells: the runs, none of them central.
      folder: a run's files go to `folder / cell.name`.
      processes: runs at a time, as in `finish`.

    Returns:
      Cell name to run, or to the error it ended with, in the order of `cells`.

    Raises:
      ConfigError: before anything is run, options that cannot be, a folder that another process
        works in, or that holds a run of other options.
    """
    finished = _checked(cells, folder)
    for cell in cells:
        path = folder / cell.name
        if cell.name not in finished.runs and (path / "config.json").is_file():
            check_same_options(read_json(path / "config.json"), cell, path)
    found: dict[str, Run | BaseException] = {}
    if len(finished.runs) < len(cells):
        with locked(folder):
            missing = finished.missing(cells)
            with (
                _progress(total=len(cells), done=len(finished.runs)) as advance,
                closing(_ended(missing, finished, processes, _go_on)) as ended,
            ):
                for cell, error in ended:
                    advance()
                    if error is not None:
                        found[cell.name] = error
    return {cell.name: found.get(cell.name) or finished.runs[cell.name] for cell in cells}


def execute(cell: Cell, path: Path) -> None:
    """Run one cell into `path`."""
    if cell.central:
        from experiments.central import run_central

        run_central(cell.options, path, cell.epochs)
    else:
        from experiments.recipe import run_recipe

        run_recipe(cell.options, path, progress=False)


def _go_on(cell: Cell, path: Path) -> None:
    """Run one cell into `path`, from where it stopped."""
    from experiments.recipe import run_recipe

    run_recipe(cell.options, path, progress=False, resume=True)


def _checked(cells: Sequence[Cell], folder: Path) -> Finished:
    """The runs that are finished, once it is sure that the others can be run."""
    for cell in cells:
        if not cell.central:
            check_options(cell.options)
    finished = Finished(folder)
    for cell in cells:
        if is_finished(folder / cell.name):
            finished.add(cell)
    return finished


def _run_missing(cells: Sequence[Cell], finished: Finished, processes: int) -> None:
    """Run cells that are not finished; those that fail do not stop the others, bad options do."""
    folder, failures, missing = finished.folder, [], []
    for cell in finished.missing(cells):
        _clear(folder / cell.name)
        # It starts over if it must, so it needs no checkpoints.
        missing.append(
            replace(cell, options=replace(cell.options, checkpoint_every=cell.options.rounds))
        )
    with (
        _progress(total=len(cells), done=len(finished.runs)) as advance,
        closing(_ended(missing, finished, processes, execute)) as ended,
    ):
        for cell, error in ended:
            if error is not None:
                if processes == 1 or isinstance(error, ConfigError):
                    raise error
                failures.append(f"{cell.name}: {str(error) or type(error).__name__}")
            advance()
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(missing)} runs failed, the first {failures[0]}; finished "
            f"runs are kept under {folder}, so the same command runs the others again"
        )


def _ended(
    missing: Sequence[Cell],
    finished: Finished,
    processes: int,
    run: Callable[[Cell, Path], None],
) -> Generator[tuple[Cell, BaseException | None], None, None]:
    """Run cells with `run`, and read back each that ends well.

    Yields:
      Each cell with the error it ended with, or None, as they end.
    """
    folder = finished.folder
    if processes == 1 or len(missing) <= 1:
        for cell in missing:
            try:
                run(cell, folder / cell.name)
            except Exception as failed:
                yield cell, failed
            else:
                yield cell, finished.read(cell)
        return
    rest = {cell.name: cell for cell in missing}
    # A process that dies takes the others down; what had not begun goes on in fresh ones.
    while rest:
        jobs = [(cell, folder / cell.name) for cell in rest.values()]
        with closing(run_all(jobs, partial(_inline, run), processes)) as ended:
            for (cell, _), error in ended:
                del rest[cell.name]
                yield cell, error or finished.read(cell)


def _inline(run: Callable[[Cell, Path], None], job: tuple[Cell, Path]) -> None:
    """Run a cell without threads of its own."""
    cell, path = job
    run(replace(cell, options=replace(cell.options, workers=0)), path)


def _clear(path: Path) -> None:
    """Remove an unfinished run; anything else in the way is left for the run to complain about."""
    names = {child.name for child in path.iterdir()} if path.is_dir() else set()
    if "config.json" in names or names == {".config.json.part"}:
        shutil.rmtree(path)


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """One line on standard error: runs done of total, time spent, time left; yields what counts."""
    bar = Progress(
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    )
    with bar:
        task = bar.add_task("runs", total=total, completed=done)
        yield lambda: bar.advance(task)
