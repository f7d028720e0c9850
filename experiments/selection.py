"""Does drawing active devices more often help, and does it help more when data arrives over time?

The experiment trains one model under every selection policy, with all data at once ("static") and
in consecutive periods whose past is deleted ("continual"), over several seeds. Runs that share a
seed share the initial model and are compared in pairs. Further rows take apart what activity mixes:
which devices are heard, how their updates are weighted, and how much data a round processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.options import RunOptions
from experiments.presets import Preset, chosen, chosen_with_seeds, run_options, runs_of
from experiments.selection_rows import Row, further_rows, main_rows
from fedsim.record import Run
from fedsim.report.comparison import comparison_table
from fedsim.report.table import Table


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of the experiment a preset runs.

    Attributes:
      options: where the preset departs from the defaults of a run.
      seeds: runs of every row.
      policies: selection policies, uniform first.
      crossed: policies run under every weighting, not only their own.
      further: whether rows at equal examples, at equal local steps and of central training follow.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int
    policies: tuple[str, ...]
    crossed: tuple[str, ...] = ()
    further: bool = False


PRESETS: dict[str, Size] = {
    "quick": Size(
        options={"corpus": "home", "devices": 300, "cohort": 16, "rounds": 40, "evaluate_every": 4},
        seeds=3,
        policies=("uniform", "activity"),
    ),
    "paper": Size(
        options={"rounds": 80, "evaluate_every": 4},
        seeds=5,
        policies=("uniform", "activity", "log", "sqrt", "softmax", "top"),
        crossed=("uniform", "activity"),
        further=True,
    ),
}


def preset_options(preset: Preset, given: Mapping[str, Any] | None = None) -> RunOptions:
    """The options a preset runs with.

    Args:
      preset: "quick" or "paper".
      given: fields of `RunOptions` that the caller sets; they win over the preset.
    """
    return run_options(chosen(PRESETS, preset).options, given)


def selection(
    options: RunOptions | None = None,
    preset: Preset = "quick",
    seeds: int | None = None,
    out: Path | str = "runs/selection",
    processes: int | None = None,
) -> Table:
    """Compare selection policies; run what is missing under `out / "runs"`.

    Args:
      options: of every run; a row sets its own setting, selection, weighting, cohort, local steps
        and seed, counted from the seed here. Default: `preset_options(preset)`.
      preset: "quick": uniform and activity. "paper": every policy, the weightings crossed, and
        further rows.
      seeds: runs a row, >= 1; default: the preset's.
      out: the experiment's folder. A second call with the same arguments goes on where the first
        stopped.
      processes: runs at a time; default: the number of cores. Results do not depend on it.

    Raises:
      ConfigError: options that cannot be run, a folder with other runs, or runs that failed.
    """
    options = preset_options(preset) if options is None else options
    size, each = chosen_with_seeds(PRESETS, preset, seeds, options.seed)
    rows = main_rows(options, size.policies, size.crossed)
    runs = runs_of(rows, each, out, processes)
    if size.further:
        rows += further_rows(options, size.policies, _activity(rows, runs))
        runs = runs_of(rows, each, out, processes)
    return comparison_table([row.group(own) for row, own in zip(rows, runs, strict=True)])


def _activity(rows: Sequence[Row], runs: Sequence[Sequence[Run]]) -> dict[str, np.ndarray]:
    """Setting to examples held, shape (periods, devices), as the runs recorded it."""
    return {
        row.options.setting: np.asarray(own[0].devices["activity"])
        for row, own in zip(rows, runs, strict=True)
    }
