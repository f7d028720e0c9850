"""What does example-level privacy cost in accuracy, time and memory, by each way of computing it?

One row a corpus, setting, model, way and noise level. Ways that compute the exact sum train the
same model, so accuracy and epsilon stand in the rows of one of them. Runs and measured costs go in,
a `Table` with notes and figures comes out; nothing else is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fedsim.report.curves import ACCURACY, measured
from fedsim.report.statistics import Estimate, estimate
from fedsim.report.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedsim.record import Run

PLAIN, OURS, EDP = "non-private", "exact (ours)", "eDP-SGD"
HOOKS, GHOST, NAIVE = "Opacus hooks", "Opacus ghost", "naive loop"
"""Ways to compute a step."""


@dataclass(frozen=True)
class Cost:
    """What a step costs.

    Attributes:
      seconds: processor time, a median.
      time: the same over that of the fastest ordinary step, median of the ratios of a turn.
      memory: peak above the model, over that of the same ordinary step.
    """

    seconds: float
    time: float
    memory: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One row.

    Attributes:
      corpus: name of the data.
      setting: "central" or "federated".
      model: "bilstm" or "transformer".
      way: of computing a step.
      cost: of it.
      noise: noise multiplier; None without privacy, or where the row has costs alone.
      runs: of this way and noise, one a seed; none where the row has costs alone.
    """

    corpus: str
    setting: str
    model: str
    way: str
    cost: Cost
    noise: float | None = None
    runs: Sequence["Run"] = ()

    def final(self, key: str) -> Estimate | None:
        """The last measured value of a figure, over seeds."""
        found = [measured(run, key)[1] for run in self.runs]
        return estimate([float(values[-1]) for values in found if len(values)])

    @property
    def accuracy(self) -> Estimate | None:
        """Final intent accuracy."""
        return self.final(ACCURACY)

    @property
    def epsilon(self) -> float | None:
        """What the worst device's examples have spent in any run; infinite without noise."""
        if not self.runs:
            return None
        if self.noise is None:
            return float("inf")
        return max(float(run.rounds[-1]["example_epsilon_max"]) for run in self.runs)

    @property
    def naive(self) -> float | None:
        """What a naive reading would claim, where that differs."""
        if self.way != EDP:
            return None
        return max(naive_epsilon(run) for run in self.runs)

    def row(self) -> dict[str, Any]:
        """Its cells."""
        return {
            "corpus": self.corpus,
            "setting": self.setting,
            "model": self.model,
            "way": self.way,
            "noise_multiplier": self.noise,
            "intent_accuracy": self.accuracy,
            "slot_f1": self.final("slot_f1"),
            "time": self.cost.time,
            "memory": self.cost.memory,
            "epsilon": self.epsilon,
            "epsilon_naive": self.naive,
        }


def naive_epsilon(run: "Run") -> float:
    """What a naive reading of a run's mechanism claims; of exact DP-SGD it is the epsilon."""
    line = run.rounds[-1]
    return line["figures"].get("privacy/example_epsilon_naive", line["example_epsilon_max"])


_COLUMNS = (
    Column("corpus", "corpus"),
    Column("setting", "setting"),
    Column("model", "model", label=True),
    Column("way", "step", label=True),
    Column("noise_multiplier", "sigma", "number"),
    Column("intent_accuracy", "intent acc. %", "percent"),
    Column("slot_f1", "slot F1 %", "percent"),
    Column("time", "time", "number"),
    Column("memory", "memory", "number"),
    Column("epsilon", "epsilon", "number"),
    Column("epsilon_naive", "epsilon, naive reading", "number"),
)


def dpsgd_table(lines: Sequence[Line]) -> Table:
    """The table of finished runs and measured costs, with its notes and figures.

    Args:
      lines: one or more, in the order of the rows.
    """
    from fedsim.report.dpsgd_notes import caption, notes

    drawings: dict[str, Callable[[], Figure]] = {
        "accuracy-over-epsilon": partial(_over_epsilon, lines),
        "time-by-method": partial(_by_method, lines),
    }
    return Table(
        columns=_COLUMNS,
        rows=[line.row() for line in lines],
        caption=caption(lines),
        notes=notes(lines),
        drawings=drawings,
        split=("corpus", "setting"),
    )


# matplotlib takes a second to import: it is, when a figure is wanted.


def _over_epsilon(lines: Sequence[Line]) -> "Figure":
    from fedsim.report.dpsgd_figures import accuracy_over_epsilon

    return accuracy_over_epsilon(lines)


def _by_method(lines: Sequence[Line]) -> "Figure":
    from fedsim.report.dpsgd_figures import time_by_method

    return time_by_method(lines)
