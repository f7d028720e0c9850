"""What does it cost each device that active devices are drawn more often, and what does it buy?

One row a policy, weighting and cure, its noise fixed in one of two ways: so that the model sees as
much of it as under uniform selection ("noise": compare epsilons), or so that the device that pays
most pays the same ("epsilon": compare accuracy). Uniform selection with equal weights is both.
Runs go in, and what the same policies cost at example level; a `Table` with notes and figures comes
out, and nothing else is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedsim.report.curves import ACCURACY, Group, figure
from fedsim.report.price_examples import PricedExamples
from fedsim.report.statistics import Estimate
from fedsim.report.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedsim.record import Run

Held = Literal["both", "noise", "epsilon", "none"]
"""What a row has in common with uniform selection at equal weights; "none" is not private."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Priced:
    """Runs of one row.

    Attributes:
      group: of the same options, one run a seed.
      held: what its noise was chosen for.
    """

    group: Group
    held: Held

    @property
    def epsilon(self) -> float:
        """What the worst device has spent at the end; rates do not depend on the seed."""
        return float(self._last("epsilon_max"))

    @property
    def participation_epsilon(self) -> float:
        """The same before one who also sees who took part, of the dearest seed: a claim holds in
        every run, and cohorts differ from seed to seed.
        """
        lines = [run.rounds[-1] for run in self.group.runs]
        return max(float(line["epsilon_participation_max"]) for line in lines)

    @property
    def accuracy(self) -> Estimate | None:
        """Final intent accuracy over seeds."""
        return self.group.final(ACCURACY)

    @property
    def effective_noise(self) -> float:
        """Noise per coordinate of the mean update in units of the clip norm, root mean square."""
        key = "privacy/effective_noise"
        each = [figure(line, key) for line in self.group.runs[0].rounds]
        return float(np.sqrt(np.mean(np.square([e for e in each if e is not None]))))

    @property
    def worst_activity(self) -> float | None:
        """Examples the worst device holds, a mean over periods; None where all pay the same."""
        run = self.group.runs[0]
        ledger = run.arrays("ledger")
        if np.ptp(ledger["epsilon"]) == 0:
            return None
        return float(activity_of(run)[int(ledger["worst"])])

    def row(self) -> dict[str, Any]:
        """Its cells."""
        found: dict[str, Any] = {
            "unit": "–" if self.held == "none" else "device",
            "setting": self.group.setting,
            "selection": self.group.label,
            "weighting": self.group.weighting,
            "held": {"both": "noise, epsilon", "none": "–"}.get(self.held, self.held),
            "seeds": len(self.group.runs),
            "intent_accuracy": self.accuracy,
            "slot_f1": self.group.final("slot_f1"),
        }
        if self.held == "none":
            return found
        return found | {
            "noise_multiplier": self._last("privacy/noise_multiplier"),
            "effective_noise": self.effective_noise,
            "epsilon_max": self.epsilon,
            "worst_activity": self.worst_activity,
            "epsilon_heavy": self._last("privacy/epsilon_heavy"),
            "epsilon_median": self._last("epsilon_median"),
            "epsilon_light": self._last("privacy/epsilon_light"),
            "epsilon_participation_max": self.participation_epsilon,
        }

    def _last(self, key: str) -> Any:
        return figure(self.group.runs[0].rounds[-1], key)


_COLUMNS = (
    Column("unit", "unit", label=True),
    Column("setting", "setting", label=True),
    Column("selection", "selection", label=True),
    Column("weighting", "weighting", label=True),
    Column("held", "equal", label=True),
    Column("seeds", "seeds", "count"),
    Column("intent_accuracy", "intent acc. %", "percent"),
    Column("slot_f1", "slot F1 %", "percent"),
    Column("noise_multiplier", "sigma", "number"),
    Column("effective_noise", "effective noise", "number"),
    Column("epsilon_max", "eps worst", "number"),
    Column("worst_activity", "worst holds", "number"),
    Column("epsilon_heavy", "eps heaviest", "number"),
    Column("epsilon_median", "eps median at most", "number"),
    Column("epsilon_light", "eps lightest", "number"),
    Column("epsilon_participation_max", "eps, who came seen", "number"),
)


def price_table(rows: Sequence[Priced], examples: Sequence[PricedExamples] = ()) -> Table:
    """The table of finished runs, with its notes and figures.

    Args:
      rows: one or more, uniform selection with equal weights among them.
      examples: what the policies cost at example level.
    """
    from fedsim.report.price_notes import caption, notes

    drawings: dict[str, Callable[[], Figure]] = {
        "epsilon-over-activity": partial(_over_activity, rows),
        "accuracy-over-epsilon": partial(_over_epsilon, rows),
        "accuracy-at-equal-epsilon": partial(_at_equal_epsilon, rows),
    }
    if examples:
        drawings["example-epsilon-over-activity"] = partial(_examples_over_activity, examples)
    return Table(
        columns=_COLUMNS,
        rows=[*(row.row() for row in rows), *(row.row() for row in examples)],
        caption=caption(rows),
        notes=notes(rows, examples),
        drawings=drawings,
    )


def activity_of(run: "Run") -> np.ndarray:
    """Examples every device holds, mean over periods, (devices,)."""
    return np.asarray(run.devices["activity"]).mean(axis=0)


# matplotlib takes a second to import: it is, when a figure is wanted.


def _over_activity(rows: Sequence[Priced]) -> "Figure":
    from fedsim.report.price_figures import epsilon_over_activity

    return epsilon_over_activity(rows)


def _over_epsilon(rows: Sequence[Priced]) -> "Figure":
    from fedsim.report.price_figures import accuracy_over_epsilon

    return accuracy_over_epsilon(rows)


def _at_equal_epsilon(rows: Sequence[Priced]) -> "Figure":
    from fedsim.report.price_figures import accuracy_at_equal_epsilon

    return accuracy_at_equal_epsilon(rows)


def _examples_over_activity(rows: Sequence[PricedExamples]) -> "Figure":
    from fedsim.report.price_figures import example_epsilon_over_activity

    return example_epsilon_over_activity(rows)
