"""What does drawing active devices more often cost each device in privacy, and what does it buy?

Under device-level DP a device pays for its own participation rate. The experiment runs selection
policies, weightings and cures twice: with as much noise in the model as uniform selection has, to
compare what devices pay, and with as much epsilon for the device that pays most, to compare
accuracy; with all data at once ("static") and period by period ("continual"). The same policies
are priced under DP-SGD on the devices as well, where no accuracy is asked and nothing is trained.

Clip norm, local work and rounds were chosen by the accuracy of uniform selection on dev utterances.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.options import RunOptions
from experiments.presets import Preset, chosen, chosen_with_seeds, run_options, runs_of
from experiments.price_examples import example_prices
from experiments.price_rows import POLICIES, rows_of
from fedsim.report.price import price_table
from fedsim.report.table import Table


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of the experiment a preset runs.

    Attributes:
      options: where the preset departs from the defaults of a run.
      seeds: runs of every row.
      policies: selection policies, run with equal weights.
      crossed: those run under every weighting.
      public: those run at a public scale as well.
      retired: those run with devices that retire before they exceed the target epsilon as well.
      budgets: baselines that go from budgets to rates.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int
    policies: tuple[str, ...]
    crossed: tuple[str, ...] = ()
    public: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()


PRESETS: dict[str, Size] = {
    "quick": Size(
        options={
            "corpus": "home", "devices": 800, "cohort": 40, "rounds": 15, "local_steps": 1,
            "clip_norm": 3.0, "epsilon": 8.0, "evaluate_every": 15,
        },
        seeds=1,
        policies=("uniform", "activity", "activity-cap.1"),
        public=("activity-cap.1",),
        retired=("activity",),
        budgets=("per group",),
    ),
    "paper": Size(
        options={"rounds": 60, "clip_norm": 0.5, "epsilon": 8.0, "evaluate_every": 20},
        seeds=3,
        policies=("uniform", "log", "sqrt", "activity", "activity-cap.1", "activity^2"),
        crossed=("uniform", "sqrt", "activity"),
        public=("activity-cap.1",),
        retired=("activity",),
        budgets=("per group", "per client"),
    ),
}  # fmt: skip


def preset_options(preset: Preset, given: Mapping[str, Any] | None = None) -> RunOptions:
    """The options a preset runs with.

    Args:
      preset: "quick" or "paper".
      given: fields of `RunOptions` that the caller sets; they win over the preset.
    """
    return run_options({"dp": "device", **chosen(PRESETS, preset).options}, given)


def price_of_activity(
    options: RunOptions | None = None,
    preset: Preset = "quick",
    seeds: int | None = None,
    out: Path | str = "runs/price-of-activity",
    processes: int | None = None,
) -> Table:
    """Price selection policies at device level; run what is missing under `out / "runs"`.

    Args:
      options: of every run; a row sets its own setting, selection, cap, weighting, noise and seed.
        `epsilon` is what the worst device may spend. Default: `preset_options(preset)`.
      preset: "quick": uniform, activity, capped rates, a public scale, retirement, and budgets per
        group. "paper": every policy, the weightings crossed, and budgets per client as well.
      seeds: runs a row, >= 1; default: the preset's.
      out: the experiment's folder. A second call with the same arguments goes on where the first
        stopped.
      processes: runs at a time; default: the number of cores. Results do not depend on it.

    Raises:
      ConfigError: options that cannot be run, a folder with other runs, or runs that failed.
    """
    options = preset_options(preset) if options is None else options
    size, each = chosen_with_seeds(PRESETS, preset, seeds, options.seed)
    rows = rows_of(
        options,
        size.policies,
        crossed=size.crossed,
        public=size.public,
        retired=size.retired,
        budgets=size.budgets,
    )
    examples = example_prices(
        options, {name: POLICIES[name] for name in size.policies}, size.retired
    )
    runs = runs_of(rows, each, out, processes)
    priced = [row.priced(own) for row, own in zip(rows, runs, strict=True)]
    return price_table(priced, examples)
