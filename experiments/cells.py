"""Which runs of an experiment are still missing, and running them.

An experiment is a list of cells; a cell is one run in a folder of its own. Finished runs are read
back, never repeated; a run that was interrupted or failed starts over. Several processes share the
work, one run at a time each: results do not depend on how many.
"""

import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.options import RunOptions
from fedsim.errors import ConfigError
from fedsim.record import Run, is_finished, load_run

_MAY_DIFFER = frozenset({"weighting", "workers", "out", "data"})
"""Options that the record resolves, or that cannot change a result."""

_CENTRAL = frozenset({"corpus", "devices", "model", "seed"})
"""What a central run shares with the federated ones."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of an experiment.

    Attributes:
      name: folder of the run, unique in the experiment.
      options: everything the run depends on.
      central: whether the model is trained on all data at once instead of on devices.
    """

    name: str
    options: RunOptions
    central: bool = False


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
      ConfigError: a folder holds a finished run of other options, or runs failed; what is finished
        is kept and the same call goes on from there.
    """
    missing = [cell for cell in cells if not is_finished(folder / cell.name)]
    waiting = {cell.name for cell in missing}
    runs = {c.name: load_run(folder / c.name) for c in cells if c.name not in waiting}
    for cell in cells:
        if cell.name in runs:
            _check_same(runs[cell.name], cell, folder)
    for cell in missing:
        _clear(folder / cell.name)
    with _progress(total=len(cells), done=len(runs)) as (bar, task):
        if processes == 1 or len(missing) <= 1:
            for cell in missing:
                execute(cell, folder / cell.name)
                bar.advance(task)
        else:
            _in_processes(missing, folder, processes, bar, task)
    return {c.name: runs.get(c.name) or load_run(folder / c.name) for c in cells}


def execute(cell: Cell, path: Path) -> None:
    """Run one cell into `path`."""
    if cell.central:
        from experiments.central import run_central

        run_central(cell.options, path)
    else:
        from experiments.recipe import run_recipe

        run_recipe(cell.options, path, progress=False)


def _in_processes(
    cells: Sequence[Cell], folder: Path, processes: int, bar: Progress, task: TaskID
) -> None:
    """Run cells in fresh processes; those that fail do not stop the others, bad options do."""
    failures: list[str] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(cells)), mp_context=spawn) as pool:
        futures: dict[Future[None], Cell] = {}
        for cell in cells:
            alone = replace(cell, options=replace(cell.options, workers=0))
            futures[pool.submit(_on_one_thread, execute, alone, folder / cell.name)] = cell
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, ConfigError):
                    raise error
                if error is not None:
                    failures.append(f"{futures[future].name}: {error or type(error).__name__}")
                bar.advance(task)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(cells)} runs failed, the first {failures[0]}; finished runs "
            f"are kept under {folder}, so the same command runs the failed ones again"
        )


def _on_one_thread(run: Callable[[Cell, Path], None], cell: Cell, path: Path) -> None:
    """Processes share the cores between them; more threads in each would only get in the way."""
    import torch

    torch.set_num_threads(1)
    run(cell, path)


def _check_same(run: Run, cell: Cell, folder: Path) -> None:
    """Refuse to take a finished run of other options for a cell's."""
    wanted = json.loads(json.dumps(asdict(cell.options), default=str))
    for name, value in wanted.items():
        # None stands for a default that the record holds resolved.
        if value is None or name in _MAY_DIFFER or (cell.central and name not in _CENTRAL):
            continue
        found = run.config.get(name)
        if name in run.config and found != value:
            raise ConfigError(
                f"{folder / cell.name} holds a finished run with {name}={found}, but this "
                f"experiment wants {name}={value}; name another output folder or remove that one"
            )


def _clear(path: Path) -> None:
    """Remove an unfinished run; anything else in the way is left for the run to complain about."""
    if (path / "config.json").is_file():
        shutil.rmtree(path)


@contextmanager
def _progress(total: int, done: int) -> Iterator[tuple[Progress, TaskID]]:
    """One line on standard error: runs done of total, time spent, time left."""
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
        yield bar, bar.add_task("runs", total=total, completed=done)
