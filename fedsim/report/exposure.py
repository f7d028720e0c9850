"""What does an attacker get, beside what is claimed and what an audit proves, row by row?

One row a setting, selection policy, way to be private and noise level. Finished runs with a leakage
panel go in, a `Table` with notes and figures comes out; nothing else is read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedsim.leakage.attacks import by_reference
from fedsim.leakage.kept import Kept, Pair, share_kept
from fedsim.report.curves import ACCURACY, Group, figure
from fedsim.report.leakage import refutation
from fedsim.report.statistics import Estimate, estimate
from fedsim.report.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedsim.record import Run

Privacy = Literal["none", "DP-SGD", "eDP-SGD", "device level"]
"""What protects whom: nothing; every example, on its device; every device."""

NONE: Privacy = "none"
EXAMPLE: Privacy = "DP-SGD"
EDP: Privacy = "eDP-SGD"
DEVICE: Privacy = "device level"

_CLAIM = "epsilon_claim_at_delta_audit"


@dataclass(frozen=True, kw_only=True, eq=False)
class Exposed:
    """Runs of one row.

    Attributes:
      group: of the same options, one run a seed; each with a panel.
      privacy: what is protected, and how.
      noise: noise multiplier; 0 clips alone, None is without privacy.
      whole: the same training on all data, without a panel, where it was run.
    """

    group: Group
    privacy: Privacy
    noise: float | None = None
    whole: Group | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Setting and policy: rows of one differ in privacy alone."""
        return self.group.setting, self.group.selection

    @property
    def way(self) -> str:
        """The way to be private."""
        return "clipping alone" if self.noise == 0 else self.privacy

    @property
    def label(self) -> str:
        """The way to be private and its noise."""
        return f"{self.way}, sigma {self.noise:g}" if self.noise else self.way

    @property
    def epsilon(self) -> float:
        """What is claimed at the end, of the worst device and in any run."""
        return max(claimed(self, run.rounds[-1]) for run in self.group.runs)

    @property
    def accuracy(self) -> Estimate | None:
        """Final intent accuracy over seeds."""
        return self.group.final(ACCURACY)

    def auc(self, group: str = "", at: int = -1) -> Estimate | None:
        """AUC of the primary attack, a mean over seeds.

        Args:
          group: "light", "middle" or "heavy" devices; "" for the whole panel.
          at: index of the round.

        Returns:
          With the interval over panels; None where the round was not measured in all runs.
        """
        keys = [
            f"leakage/auc{end}_{group}" if group else f"mia_auc{end}"
            for end in ("", "_low", "_high")
        ]
        return mean_of([[figure(run.rounds[at], k) for k in keys] for run in self.group.runs])

    def last(self, key: str) -> list[Any]:
        """A figure of the last round, one a run."""
        return [figure(run.rounds[-1], key) for run in self.group.runs]

    @property
    def bound(self) -> tuple[float, float]:
        """The largest audited lower bound of any run, and what it may be held against."""
        found = zip(self.last("epsilon_audit_low"), self.last(_CLAIM), strict=True)
        return max(found, key=lambda pair: (pair[0], -pair[1]))

    def row(self, plain: "Exposed", places: int) -> dict[str, Any]:
        """Its cells.

        Args:
          plain: the row without privacy of the same place.
          places: how many such rows there are.
        """
        auc, (bound, claim) = self.auc(), self.bound
        found: dict[str, Any] = {
            "setting": self.group.setting,
            "selection": f"{self.group.selection} selection",
            "privacy": self.way,
            "noise_multiplier": self.noise or None,
            "seeds": len(self.group.runs),
            "intent_accuracy": self.accuracy,
            "accuracy_without_panel": None if self.whole is None else self.whole.final(ACCURACY),
            "epsilon": self.epsilon,
            "epsilon_audit_low": bound,
            "epsilon_claim": claim,
            "auc": None if auc is None else auc.mean,
            "auc_low": None if auc is None else auc.low,
            "auc_high": None if auc is None else auc.high,
            "tpr_at_1pct": estimate([t for t in self.last("mia_tpr_at_1pct") if t is not None]),
            "members": sum(filter(None, self.last("leakage/members"))),
            "non_members": sum(filter(None, self.last("leakage/non_members"))),
            "refuted": next(filter(None, map(refutation, self.group.runs)), None),
        }
        if self is not plain and (left := kept(plain, self, places)) is not None:
            count = len(self.group.runs)
            found["kept"] = Estimate(mean=left.share, low=left.low, high=left.high, count=count)
        return found


def claimed(row: Exposed, line: dict[str, Any]) -> float:
    """What a run of a row claims up to a round, before an observer of the models."""
    return float(line["epsilon_max" if row.privacy == DEVICE else "example_epsilon_max"])


def mean_of(ends: Sequence[Sequence[float | None]]) -> Estimate | None:
    """Mean of independent figures that have intervals of their own.

    The ends are those of Zou and Donner (Statistics in Medicine 27, 2008): distances of each figure
    to its own ends, added in squares.

    Args:
      ends: (figure, low, high) of each.

    Example:
      >>> one = mean_of([(0.6, 0.5, 0.7)])
      >>> round(one.mean, 3), round(one.low, 3), round(one.high, 3)
      (0.6, 0.5, 0.7)
    """
    values = np.array(ends, float)
    if not len(values) or np.isnan(values).any():
        return None
    mean, low, high = float(values[:, 0].mean()), values[:, 1], values[:, 2]
    down, up = (math.hypot(*(values[:, 0] - end)) / len(values) for end in (low, high))
    return Estimate(mean=mean, low=mean - down, high=mean + up, count=len(values))


def last_scores(run: "Run") -> tuple[np.ndarray, np.ndarray]:
    """Scores of the primary attack on the final model, (m,), and how the coins fell, (m,) bool."""
    panel, found = run.arrays("panel"), run.arrays("scores")
    scores = by_reference(found["losses"][-1].astype(float), found["untrained"])
    return scores, np.asarray(panel["included"], bool)


def kept(plain: Exposed, row: Exposed, comparisons: int = 1) -> Kept | None:
    """What a row leaves of the attack's advantage over guessing without privacy, seeds paired."""
    pairs = []
    for before, after in zip(plain.group.runs, row.group.runs, strict=True):
        scores, member = last_scores(before)
        pairs.append(Pair(before=scores, after=last_scores(after)[0], member=member))
    return share_kept(pairs, comparisons)


_COLUMNS = (
    Column("setting", "setting"),
    Column("selection", "selection"),
    Column("privacy", "privacy", label=True),
    Column("noise_multiplier", "sigma", "number", label=True),
    Column("intent_accuracy", "intent acc. %", "percent"),
    Column("epsilon", "eps claimed", "number"),
    Column("epsilon_audit_low", "eps audited", "number"),
    Column("epsilon_claim", "comparable claim", "number"),
    Column("auc", "AUC", "number"),
    Column("auc_low", "from", "number"),
    Column("auc_high", "to", "number"),
    Column("tpr_at_1pct", "TPR at 1 %, %", "share"),
    Column("kept", "left of AUC - 0.5, %", "change"),
    Column("accuracy_without_panel", "acc. without panel %", "percent"),
    Column("members", "members", "count"),
    Column("non_members", "non-members", "count"),
    Column("seeds", "seeds", "count"),
)


def exposure_table(rows: Sequence[Exposed]) -> Table:
    """The table of finished runs, with its notes and figures.

    Args:
      rows: of each setting and policy, one without privacy first.
    """
    from fedsim.report.exposure_notes import caption, notes

    places = by_place(rows)
    drawings: dict[str, Callable[[], Figure]] = {
        "auc-and-epsilon-per-round": partial(_per_round, rows),
        "roc": partial(_roc, rows),
        "auc-by-activity": partial(_by_activity, rows),
    }
    return Table(
        columns=_COLUMNS,
        rows=[row.row(own[0], len(places)) for own in places for row in own],
        caption=caption(rows),
        notes=notes(rows),
        drawings=drawings,
        split=("setting", "selection"),
    )


def by_place(rows: Sequence[Exposed]) -> list[list[Exposed]]:
    """Rows of each setting and policy."""
    places = dict.fromkeys(row.place for row in rows)
    return [[row for row in rows if row.place == place] for place in places]


# matplotlib takes a second to import: it is, when a figure is wanted.


def _per_round(rows: Sequence[Exposed]) -> "Figure":
    from fedsim.report.exposure_figures import per_round

    return per_round(rows)


def _roc(rows: Sequence[Exposed]) -> "Figure":
    from fedsim.report.exposure_figures import roc_on_log_axes

    return roc_on_log_axes(rows)


def _by_activity(rows: Sequence[Exposed]) -> "Figure":
    from fedsim.report.exposure_figures import by_activity

    return by_activity(rows)
