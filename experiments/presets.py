"""How much of an experiment runs, with which options, and what do its rows need?

What experiments have in common: presets that depart from the defaults of a run, options of the
caller that win over them, and rows of runs that differ only in the seed.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from experiments.cells import Cell, finish
from experiments.options import RunOptions
from fedsim.errors import ConfigError, require
from fedsim.record import Run

Preset = Literal["quick", "paper"]
T = TypeVar("T")


class Sized(Protocol):
    """How much of an experiment a preset runs."""

    @property
    def seeds(self) -> int:
        """Runs of every row."""


S = TypeVar("S", bound=Sized)


class Row(Protocol):
    """One row of an experiment's table: options whose seed is still open."""

    def cell(self, seed: int) -> Cell:
        """The row's run of one seed."""


def chosen(presets: Mapping[str, T], preset: str) -> T:
    """What a preset of this name runs.

    Raises:
      ConfigError: there is none.
    """
    if preset not in presets:
        raise ConfigError(f"preset is {preset!r}; expected one of {', '.join(presets)}")
    return presets[preset]


def chosen_with_seeds(
    presets: Mapping[str, S], preset: str, seeds: int | None, first: int
) -> tuple[S, range]:
    """What a preset of this name runs, and with which seeds.

    Args:
      presets: by name.
      preset: its name.
      seeds: how many; None is as many as the preset has.
      first: the smallest of them.

    Raises:
      ConfigError: there is no such preset.
    """
    size = chosen(presets, preset)
    return size, range(first, first + (size.seeds if seeds is None else seeds))


def run_options(own: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> RunOptions:
    """The options of every run.

    Args:
      own: where the preset departs from the defaults.
      given: fields of `RunOptions` that the caller sets; they win over the preset. Another corpus
        than the preset's comes with as many devices as it has.

    Example:
      >>> run_options({"corpus": "home", "devices": 9}, {"corpus": "massive"}).devices is None
      True
    """
    given, own = given or {}, dict(own)
    if given.get("corpus", own.get("corpus")) != own.get("corpus"):
        own.pop("devices", None)
    return RunOptions(**{**own, **given})


def runs_of(
    rows: Sequence[Row], seeds: range, out: Path | str, processes: int | None = None
) -> list[list[Run]]:
    """Run what is missing under `out / "runs"`, seed by seed: an interruption leaves whole seeds.

    Args:
      rows: of the table.
      seeds: one run each.
      out: the experiment's folder.
      processes: runs at a time; default: the number of cores. Results do not depend on it.

    Returns:
      The runs of every row, one a seed.

    Raises:
      ConfigError: options that cannot be run, a folder with other runs, or runs that failed.
    """
    processes = os.cpu_count() or 1 if processes is None else processes
    require(len(seeds) >= 1, f"seeds is {len(seeds)}; choose 1 or more")
    require(processes >= 1, f"processes is {processes}; choose 1 or more")
    cells = [row.cell(seed) for seed in seeds for row in rows]
    runs = finish(cells, Path(out) / "runs", processes)
    return [[runs[row.cell(seed).name] for seed in seeds] for row in rows]
