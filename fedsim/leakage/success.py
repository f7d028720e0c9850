"""How well do an attack's scores tell members from non-members, and how sure is that?

AUC is the probability that a member scores higher than a non-member, ties counting half (Mann and
Whitney). It hides the attacker who is sure of a few people, so it always comes with the true
positive rate at a low false positive rate (Carlini et al., S&P 2022,
https://arxiv.org/abs/2112.03570).

Interval of the AUC: the set of theta with |auc - theta| <= z sqrt(V(theta)), where

    V(theta) = theta (1 - theta) / (m n) x [1 + k ((1 - theta) / (2 - theta) + theta / (1 + theta))]

with m members, n non-members and k = (m + n) / 2 - 1 (Hanley and McNeil 1982, inverted as a score
interval: method 5 of Newcombe, Statistics in Medicine 25, 2006). V is exact for the null attack on
equal numbers. Unlike DeLong's interval it neither collapses to a point at an AUC of 0 or 1 nor
under-covers with the few dozen members of an activity group.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import rankdata

from fedsim.errors import require

COARSE = 10
"""False positives that a true positive rate should at least rest on."""


@dataclass(frozen=True, kw_only=True)
class TruePositives:
    """True positive rate at a false positive rate.

    Attributes:
      fpr: false positive rate allowed, in (0, 1).
      tpr: best true positive rate of a threshold within it; None where the non-members are so few
        that not even one false positive is allowed.
      coarse: whether it rests on fewer than `COARSE` false positives.
    """

    fpr: float
    tpr: float | None
    coarse: bool


@dataclass(frozen=True, kw_only=True)
class Success:
    """How well an attack does.

    Attributes:
      auc: in [0, 1]; 0.5 is guessing.
      low: lower end of its 95 % interval.
      high: upper end.
      members: examples that were trained on.
      non_members: examples that were not.
      at_1pct: true positive rate at 1 % false positives.
      at_01pct: the same at 0.1 %.
    """

    auc: float
    low: float
    high: float
    members: int
    non_members: int
    at_1pct: TruePositives
    at_01pct: TruePositives


def success(scores: np.ndarray, member: np.ndarray) -> Success | None:
    """AUC with its interval and true positive rates at low false positive rates.

    Args:
      scores: (n,) an attack's, higher where it believes in membership; all finite.
      member: (n,) bool, the truth.

    Returns:
      None where there are no members or no non-members.

    Raises:
      ConfigError: a score is not finite.

    Example:
      >>> found = success(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
      >>> found.auc, round(found.low, 2), round(found.high, 2), found.at_1pct.tpr
      (0.875, 0.3, 0.99, None)
    """
    member = np.asarray(member, bool)
    members, non_members = int(member.sum()), int((~member).sum())
    if members == 0 or non_members == 0:
        return None
    value = auc(scores, member)
    low, high = auc_interval(value, members, non_members)
    return Success(
        auc=value,
        low=low,
        high=high,
        members=members,
        non_members=non_members,
        at_1pct=true_positives(scores, member, 0.01),
        at_01pct=true_positives(scores, member, 0.001),
    )


def auc(scores: np.ndarray, member: np.ndarray) -> float:
    """Share of (member, non-member) pairs in which the member scores higher; ties count half."""
    require(
        bool(np.isfinite(scores).all()),
        f"{int((~np.isfinite(scores)).sum())} of {len(scores)} attack scores are not finite; "
        "give a model whose losses are finite",
    )
    members = int(member.sum())
    ranks = rankdata(scores)[member].sum()
    pairs = members * (len(scores) - members)
    return float((ranks - members * (members + 1) / 2) / pairs)


def auc_interval(
    value: float, members: int, non_members: int, level: float = 0.95
) -> tuple[float, float]:
    """The two-sided interval of the module's docstring.

    Args:
      value: the AUC found.
      members: how many.
      non_members: how many.
      level: coverage.

    Example:
      >>> [round(end, 3) for end in auc_interval(1.0, 20, 20)]
      [0.899, 1.0]
    """
    z, k = ndtri((1 + level) / 2), (members + non_members) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + k * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        variance = theta * (1 - theta) * spread / (members * non_members)
        return (value - theta) ** 2 - z**2 * variance

    # At an AUC of 0 or 1 the excess has a root there, which is that end; the other lies inside.
    low = brentq(excess, 0.0, min(value, 1 - 1e-9)) if value > 0 else 0.0
    high = brentq(excess, max(value, 1e-9), 1.0) if value < 1 else 1.0
    return float(low), float(high)


def roc(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of every threshold, from (0, 0) to (1, 1).

    Args:
      scores: (n,) an attack's.
      member: (n,) bool, at least one member and one non-member.

    Returns:
      (fpr, tpr), each (distinct scores + 1,), increasing.

    Example:
      >>> fpr, tpr = roc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
      >>> fpr.tolist(), tpr.tolist()
      ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], np.asarray(member, bool)[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits, alarms = np.cumsum(right)[ends], np.cumsum(~right)[ends]
    return (
        np.concatenate([[0.0], alarms / alarms[-1]]),
        np.concatenate([[0.0], hits / hits[-1]]),
    )


def true_positives(scores: np.ndarray, member: np.ndarray, fpr: float) -> TruePositives:
    """The best true positive rate among thresholds with at most `fpr` false positives.

    Args:
      scores: (n,) an attack's.
      member: (n,) bool, at least one member and one non-member.
      fpr: in (0, 1). With fewer than 1 / fpr non-members the answer is None.
    """
    allowed = fpr * int((~np.asarray(member, bool)).sum()) * (1 + 1e-12)
    if allowed < 1:
        return TruePositives(fpr=fpr, tpr=None, coarse=True)
    false, true = roc(scores, member)
    within = false <= fpr * (1 + 1e-12)
    return TruePositives(fpr=fpr, tpr=float(true[within].max()), coarse=allowed < COARSE)
