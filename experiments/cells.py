"""Which runs of an experiment are still missing, and running them.

An experiment is a list of cells; a cell is one run in a folder of its own. Finished runs are read
back, never repeated; a run that was interrupted or failed starts over. Several processes share the
work, one run at a time each: results do not depend on how many.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
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

from experiments.lock import locked
from experiments.options import RunOptions, check_options
from experiments.workers import run_all
from fedsim.errors import ConfigError
from fedsim.record import Run, is_finished, load_run
from fedsim.record.same import MAY_DIFFER

_CORPUS = ("corpus", "columns", "partition", "labels", "vocabulary", "devices")
"""What a population depends on, its cut into periods apart."""

_CENTRAL = frozenset({*_CORPUS, "model", "seed"})
"""What a central run shares with the federated ones."""

_CENTRAL_NOISE = (
    "noise_multiplier",
    "noise_decay",
    "clip_norm",
    "clipping",
    "epsilon",
    "delta",
    "learning_rate",
)
"""What a private one depends on as well."""

_DEFAULTS = {field.name: field.default for field in fields(RunOptions)} | {"epochs": None}


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
    for cell in cells:
        if not cell.central:
            check_options(cell.options)
    finished = _Finished(folder)
    for cell in cells:
        if is_finished(folder / cell.name):
            finished.add(cell)
    if len(finished.runs) < len(cells):
        with locked(folder):
            _run_missing(cells, finished, processes)
    return {cell.name: finished.runs[cell.name] for cell in cells}


def execute(cell: Cell, path: Path) -> None:
    """Run one cell into `path`."""
    if cell.central:
        from experiments.central import run_central

        run_central(cell.options, path, cell.epochs)
    else:
        from experiments.recipe import run_recipe

        run_recipe(cell.options, path, progress=False)


class _Finished:
    """Runs that belong to the experiment: of its cells' options, on one population.

    Args:
      folder: of the runs' folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, Run] = {}
        self._populations: dict[tuple, tuple[str | None, Path]] = {}

    def add(self, cell: Cell) -> None:
        """Read a cell's finished run.

        Raises:
          ConfigError: it is one of other options, or on other data than those read before.
        """
        path = self.folder / cell.name
        run = load_run(path)
        _check_same(run, cell, path)
        self._check_population(run, cell, path)
        self.runs[cell.name] = run

    def _check_population(self, run: Run, cell: Cell, path: Path) -> None:
        o = cell.options
        cut = (o.periods, o.by, o.keep) if o.setting == "continual" and not cell.central else ()
        people = (*(getattr(o, name) for name in _CORPUS), *cut)
        found = run.start.get("fingerprint")
        first, where = self._populations.setdefault(people, (found, path))
        if found != first:
            raise ConfigError(
                f"{where} and {path} were run on different data (fingerprints "
                f"{str(first)[:12]} and {str(found)[:12]}), so they cannot be compared; remove the "
                "runs on the data that you no longer want, or name another output folder"
            )


def _run_missing(cells: Sequence[Cell], finished: _Finished, processes: int) -> None:
    """Run cells that are not finished; those that fail do not stop the others, bad options do."""
    folder, failures, missing = finished.folder, [], []
    for cell in cells:
        if cell.name not in finished.runs:
            # It may have been finished elsewhere since it was looked for.
            if is_finished(folder / cell.name):
                finished.add(cell)
            else:
                _clear(folder / cell.name)
                missing.append((cell, folder / cell.name))
    with _progress(total=len(cells), done=len(finished.runs)) as (bar, task):
        if processes == 1 or len(missing) <= 1:
            for cell, path in missing:
                execute(cell, path)
                finished.add(cell)
                bar.advance(task)
            return
        with closing(run_all(missing, partial(_inline, execute), processes)) as ended:
            for (cell, _), error in ended:
                if isinstance(error, ConfigError):
                    raise error
                if error is None:
                    finished.add(cell)
                else:
                    failures.append(f"{cell.name}: {str(error) or type(error).__name__}")
                bar.advance(task)
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(missing)} runs failed, the first {failures[0]}; finished "
            f"runs are kept under {folder}, so the same command runs the others again"
        )


def _inline(run: Callable[[Cell, Path], None], job: tuple[Cell, Path]) -> None:
    """Run a cell without threads of its own, and without checkpoints: it starts over if it must."""
    cell, path = job
    options = replace(cell.options, workers=0, checkpoint_every=cell.options.rounds)
    run(replace(cell, options=options), path)


def _check_same(run: Run, cell: Cell, path: Path) -> None:
    """Refuse to take a finished run of other options for a cell's."""
    recipe = run.config.get("recipe")
    if recipe is None:
        raise ConfigError(
            f"{path} holds a finished run that was not made from options; "
            "name another output folder or remove that one"
        )
    wanted = json.loads(json.dumps(asdict(cell.options), default=str))
    # Options that an older record does not know had the effect of their defaults.
    found = {**_DEFAULTS, **recipe}
    compared = _compared(cell) if cell.central else (wanted.keys() | recipe.keys()) - MAY_DIFFER
    if cell.epochs is not None:
        wanted["epochs"] = cell.epochs
        compared |= {"epochs"}
    for name in sorted(compared):
        if found[name] != wanted.get(name):
            raise ConfigError(
                f"{path} holds a finished run with {name}={found[name]}, but this "
                f"experiment wants {name}={wanted.get(name)}; name another output folder or "
                "remove that one"
            )


def _compared(cell: Cell) -> frozenset[str]:
    """Options that a central run depends on."""
    noise = () if cell.options.dp == "none" else _CENTRAL_NOISE
    return _CENTRAL.union(("dp",), noise)


def _clear(path: Path) -> None:
    """Remove an unfinished run; anything else in the way is left for the run to complain about."""
    names = {child.name for child in path.iterdir()} if path.is_dir() else set()
    if "config.json" in names or names == {".config.json.part"}:
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
