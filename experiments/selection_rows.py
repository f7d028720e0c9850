"""Which rows the selection experiment has: policies, crossed weightings, and what isolates a cause.

A row is a set of options whose seed is still open. The main rows run every policy under its own
weighting; the crossed ones change the weighting alone; the further ones give uniform selection as
many examples as activity-based selection processes, or every device the same number of local steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from experiments.cells import Cell
from experiments.options import RunOptions, policy_of
from fedsim.record import Run
from fedsim.report.curves import CENTRAL, Group
from fedsim.training.batches import examples_served

SETTINGS: tuple[Literal["static", "continual"], ...] = ("static", "continual")
WEIGHTINGS: tuple[Literal["examples", "equal", "inverse-rate"], ...] = (
    "examples",
    "equal",
    "inverse-rate",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
      options: of its runs, the seed apart.
      variant: what the table says it is, beside the policy; "" for a policy as it is.
      suffix: the same in the names of the runs' folders.
      central: whether the model is trained on all data at once instead of on devices.
    """

    options: RunOptions
    variant: str = ""
    suffix: str = ""
    central: bool = False

    def cell(self, seed: int) -> Cell:
        """The row's run of one seed."""
        o = self.options
        what = CENTRAL if self.central else f"{o.setting}-{o.selection}-{o.weighting}"
        options = replace(o, seed=seed)
        return Cell(name=f"{what}{self.suffix}-seed{seed}", options=options, central=self.central)

    def group(self, runs: Sequence[Run]) -> Group:
        """The row's finished runs, under the weighting that they recorded."""
        return Group(
            setting=self.options.setting,
            selection=CENTRAL if self.central else self.options.selection,
            weighting="" if self.central else runs[0].config["weighting"],
            variant=self.variant,
            runs=runs,
        )


def main_rows(
    options: RunOptions, policies: Sequence[str], crossed: Sequence[str] = ()
) -> list[Row]:
    """Every policy under its own weighting, then the crossed weightings, setting by setting.

    Uniform selection has equal rates, so inverse-rate weighting of it is its own; it has no row.

    Args:
      options: of every run.
      policies: names of selection policies.
      crossed: those that run under every weighting.
    """
    rows = []
    for setting in SETTINGS:
        base = replace(options, setting=setting, weighting="auto")
        rows += [Row(options=_with_policy(base, policy)) for policy in policies]
        rows += [
            Row(options=replace(_with_policy(base, policy), weighting=weighting))
            for policy in crossed
            for weighting in WEIGHTINGS
            if weighting not in _own_weightings(policy, options.power)
        ]
    return rows


def further_rows(
    options: RunOptions, policies: Sequence[str], activity: Mapping[str, np.ndarray]
) -> list[Row]:
    """Uniform at activity's expected examples, every policy at equal local steps, and central.

    Args:
      options: of every run.
      policies: names of selection policies.
      activity: setting to examples held, shape (periods, devices).
    """
    rows = []
    for setting in SETTINGS:
        base = replace(options, setting=setting, weighting="auto")
        cohort = cohort_of_equal_examples(base, activity[setting])
        rows.append(
            Row(
                options=replace(_with_policy(base, "uniform"), cohort=cohort),
                variant=f"cohort {cohort}",
                suffix=f"-cohort{cohort}",
            )
        )
    steps = usual_steps(options, activity["static"])
    for setting in SETTINGS:
        base = replace(options, setting=setting, weighting="auto", local_steps=steps)
        rows += [
            Row(
                options=_with_policy(base, policy),
                variant=f"{steps} local step{'s' if steps > 1 else ''}",
                suffix=f"-steps{steps}",
            )
            for policy in policies
        ]
    whole = replace(options, setting="static", local_epochs=1, local_steps=None)
    return [*rows, Row(options=whole, central=True)]


def cohort_of_equal_examples(options: RunOptions, activity: np.ndarray) -> int:
    """Cohort with which uniform selection expects to process as many examples as activity does.

    Args:
      options: of the runs; their cohort is activity's.
      activity: (periods, devices) examples held; periods count alike.

    Returns:
      At most the number of devices that hold data in every period.
    """

    def expected(selection: str) -> float:
        rates = policy_of(_with_policy(options, selection)).rates
        return sum(float(rates(held) @ _served(options, held)) for held in activity)

    enlarged = round(options.cohort * expected("activity") / expected("uniform"))
    return max(1, min(enlarged, int((activity > 0).sum(axis=1).min())))


def usual_steps(options: RunOptions, activity: np.ndarray) -> int:
    """Local steps of a device without a fixed number, the mean over devices that hold data."""
    held = activity[activity > 0]
    return max(1, round(options.local_epochs * float(np.ceil(held / options.batch_size).mean())))


def _with_policy(options: RunOptions, policy: str) -> RunOptions:
    return replace(options, selection=policy)  # type: ignore[arg-type]


def _served(options: RunOptions, held: np.ndarray) -> np.ndarray:
    o = options
    return examples_served(held, o.batch_size, o.local_epochs, o.local_steps)


def _own_weightings(policy: str, power: float) -> tuple[str, ...]:
    """What "auto" stands for, and what equals it."""
    if policy == "uniform":
        return ("examples", "inverse-rate")
    return ("equal",) if policy == "activity" and power == 1 else ("inverse-rate",)
