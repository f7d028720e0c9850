"""Is the run in a folder the one that a cell asks for, on the same data as the others?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.run_options import RunOptions
from fedsim.errors import ConfigError
from fedsim.record import Run, is_finished, load_run
from fedsim.record.same import MAY_DIFFER

if TYPE_CHECKING:
    from experiments.cells import Cell

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


class Finished:
    """Runs that belong to the experiment: of its cells' options, on one population.

    Args:
      folder: of the runs' folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, Run] = {}
        self._populations: dict[tuple, tuple[str | None, Path]] = {}

    def add(self, cell: "Cell") -> None:
        """Read a cell's finished run.

        Raises:
          ConfigError: it is one of other options, or on other data than those read before.
        """
        path = self.folder / cell.name
        run = load_run(path)
        check_same_options(run.config, cell, path)
        self._check_population(run, cell, path)
        self.runs[cell.name] = run

    def read(self, cell: "Cell") -> ConfigError | None:
        """Add a cell that has just ended, or say why its run is none of these."""
        try:
            self.add(cell)
        except ConfigError as error:
            return error
        return None

    def missing(self, cells: "Sequence[Cell]") -> "list[Cell]":
        """Cells that are not finished; one may have been finished elsewhere since it was added."""
        for cell in cells:
            if cell.name not in self.runs and is_finished(self.folder / cell.name):
                self.add(cell)
        return [cell for cell in cells if cell.name not in self.runs]

    def _check_population(self, run: Run, cell: "Cell", path: Path) -> None:
        o = cell.options
        cut = (o.periods, o.by, o.keep) if o.setting == "continual" and not cell.central else ()
        # A panel's coins are drawn from the seed, and say which examples are null.
        panel = (o.seed,) if o.leakage else ()
        people = (*(getattr(o, name) for name in _CORPUS), *cut, panel)
        found = run.start.get("fingerprint")
        first, where = self._populations.setdefault(people, (found, path))
        if found != first:
            raise ConfigError(
                f"{where} and {path} were run on different data (fingerprints "
                f"{str(first)[:12]} and {str(found)[:12]}), so they cannot be compared; remove the "
                "runs on the data that you no longer want, or name another output folder"
            )


def check_same_options(config: Mapping[str, Any], cell: "Cell", path: Path) -> None:
    """Refuse to take a run of other options for a cell's."""
    recipe = config.get("recipe")
    if recipe is None:
        raise ConfigError(
            f"{path} holds a run that was not made from options; "
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
                f"{path} holds a run with {name}={found[name]}, but this "
                f"experiment wants {name}={wanted.get(name)}; name another output folder or "
                "remove that one"
            )


def _compared(cell: "Cell") -> frozenset[str]:
    """Options that a central run depends on."""
    noise = () if cell.options.dp == "none" else _CENTRAL_NOISE
    return _CENTRAL.union(("dp",), noise)
