"""Which share of what an attack finds out is left after training otherwise?

What an attack finds out is its AUC minus 1/2. Two runs with the same panel and coins are attacked
alike, so their AUCs vary together, and the ratio has a narrower interval than its parts: AUCs and
their covariances after DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), the ratio's
interval after Fieller (Journal of the Royal Statistical Society B 16, 1954), the set of rho with

    |a - rho b| <= z sqrt(V_aa - 2 rho V_ab + rho^2 V_bb)

where b and a are AUC - 1/2 before and after. DeLong's variance is 0 where members and non-members
are told apart without a mistake; the interval then is a point.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from fedsim.leakage.success import auc


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Scores of one attack on one panel, after two ways to train.

    Attributes:
      before: (m,) under the model that others are compared with.
      after: (m,) under the other model.
      member: (m,) bool, how the coins fell; both values twice or more.
    """

    before: np.ndarray
    after: np.ndarray
    member: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A share of (AUC - 1/2).

    Attributes:
      share: 0 is none left, 1 as much as before.
      low: lower end of its interval.
      high: upper end.
    """

    share: float
    low: float
    high: float


def share_kept(pairs: Sequence[Pair], comparisons: int = 1, level: float = 0.95) -> Kept | None:
    """What is left of an attack's advantage, means over independent panels.

    Args:
      pairs: one or more panels, each with coins of its own.
      comparisons: intervals of the same family (Bonferroni).
      level: coverage of all of them together.

    Returns:
      None where the attack before is not measurably better than guessing: there is then nothing
      that a share could be of.

    Example:
      >>> scores, member = np.arange(40.0), np.arange(40) % 4 > 1
      >>> share_kept([Pair(before=scores, after=scores, member=scores > 19)])
      Kept(share=1.0, low=1.0, high=1.0)
      >>> share_kept([Pair(before=scores, after=scores, member=member)]) is None
      True
    """
    z = float(ndtri(1 - (1 - level) / comparisons / 2))
    both = [(pair.before, pair.after) for pair in pairs]
    found = [[auc(s, p.member) - 0.5 for s in of] for of, p in zip(both, pairs, strict=True)]
    b, a = np.mean(found, axis=0).tolist()
    spread = sum(_covariance(of, p.member) for of, p in zip(both, pairs, strict=True))
    (v_bb, v_ab), (_, v_aa) = (np.asarray(spread) / len(pairs) ** 2).tolist()
    if b <= 0 or b * b <= z * z * v_bb:
        return None
    # The roots of a quadratic in rho, of which a / b is always between.
    square, half, free = b * b - z * z * v_bb, a * b - z * z * v_ab, a * a - z * z * v_aa
    reach = math.sqrt(max(half * half - square * free, 0.0))
    return Kept(share=a / b, low=(half - reach) / square, high=(half + reach) / square)


def _covariance(scores: Sequence[np.ndarray], member: np.ndarray) -> np.ndarray:
    """Of the AUCs of several attacks on one panel, (attacks, attacks)."""
    hits, misses = zip(*(_placements(each, member) for each in scores), strict=True)
    return np.cov(hits) / len(hits[0]) + np.cov(misses) / len(misses[0])


def _placements(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of non-members below each member, and of members above each non-member; ties half."""
    rank, inside, outside = rankdata(scores), rankdata(scores[member]), rankdata(scores[~member])
    members, others = len(inside), len(outside)
    return (rank[member] - inside) / others, 1 - (rank[~member] - outside) / members
