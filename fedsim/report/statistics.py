"""How sure is a figure that was measured over a few seeds, and how much better is one policy?

Intervals are two-sided Student t intervals over seeds. Comparisons are paired: runs that share a
seed share the initial model, so their difference varies less than either of them. Where several
policies are compared with one baseline the level is corrected after Bonferroni.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
      mean: the mean, in the unit of the values.
      low: lower end of the interval; None where a single seed was run.
      high: upper end; None likewise.
      count: values behind it, >= 1.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class AtLeast:
    """A count known to exceed `value`: a target that was not reached by then.

    Example:
      >>> str(AtLeast(300))
      '>300'
    """

    value: float

    def __str__(self) -> str:
        return f">{self.value:,.0f}"


def estimate(values: Sequence[float], comparisons: int = 1) -> Estimate | None:
    """Mean and t interval of independent values.

    Args:
      values: one per seed, any unit.
      comparisons: intervals of the same family; each is widened so that all of them hold together
        with probability 0.95 or more (Bonferroni).

    Returns:
      None where there are no values.

    Example:
      >>> e = estimate([0.70, 0.72, 0.74])
      >>> round(e.mean, 3), round(e.low, 3), round(e.high, 3)
      (0.72, 0.67, 0.77)
    """
    if not len(values):
        return None
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Estimate(mean=mean, low=None, high=None, count=1)
    quantile = stdtrit(count - 1, 1 - (1 - LEVEL) / comparisons / 2)
    half = float(quantile * np.std(values, ddof=1) / math.sqrt(count))
    return Estimate(mean=mean, low=mean - half, high=mean + half, count=count)


def p_value(values: Sequence[float], comparisons: int = 1) -> float | None:
    """Two-sided t test that the mean of independent values is 0; of changes by seed, a paired test.

    It is below 0.05 exactly where the interval of `estimate` for as many comparisons leaves out 0.

    Args:
      values: one per seed.
      comparisons: tests of the same family; p is multiplied by it (Bonferroni).

    Returns:
      None where there are fewer than two values, or where they do not vary.

    Example:
      >>> round(p_value([0.1, 0.2, 0.3]), 4)
      0.0742
    """
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if spread == 0:
        return None
    t = float(np.mean(values)) / spread * math.sqrt(len(values))
    return min(1.0, comparisons * 2 * float(stdtr(len(values) - 1, -abs(t))))


def relative_changes(
    accuracies: Mapping[int, float], baseline: Mapping[int, float]
) -> dict[int, float]:
    """Relative change of the error, 1 - accuracy, seed by seed; -0.1 is a tenth fewer errors.

    Args:
      accuracies: seed to accuracy, a fraction.
      baseline: the same of the runs compared with. Seeds that only one side has are left out, and
        so are seeds on which the baseline makes no error.

    Example:
      >>> {seed: round(c, 3) for seed, c in relative_changes({1: 0.82, 2: 0.9}, {1: 0.8}).items()}
      {1: -0.1}
    """
    return {
        seed: (1 - accuracy) / (1 - baseline[seed]) - 1
        for seed, accuracy in accuracies.items()
        if seed in baseline and baseline[seed] < 1
    }


def first_reaching(at: np.ndarray, values: np.ndarray, target: float) -> float | None:
    """The first measured point at or above a target; None where none is.

    Args:
      at: (measurements,) where each value was measured, increasing: rounds or examples.
      values: (measurements,) what was measured.
      target: in the unit of the values.

    Example:
      >>> first_reaching(np.array([5, 10, 15]), np.array([0.2, 0.6, 0.5]), 0.5)
      10.0
    """
    reached = np.flatnonzero(values >= target)
    return float(at[reached[0]]) if len(reached) else None


def median_reaching(reached: Sequence[float | None], ends: Sequence[float]) -> float | AtLeast:
    """The median over seeds of when a target was reached; runs that never did count as later.

    Args:
      reached: one per seed; None where the target was not reached.
      ends: where each of those runs ended.

    Returns:
      The median, or the bound that is known of it where half the runs or more did not get there.

    Example:
      >>> median_reaching([40, None, 60], [300, 300, 300])
      60.0
      >>> median_reaching([40, None, None], [300, 300, 300])
      AtLeast(value=300)
    """
    middle = float(np.median([math.inf if point is None else point for point in reached]))
    if math.isfinite(middle):
        return middle
    return AtLeast(min(end for point, end in zip(reached, ends, strict=True) if point is None))
