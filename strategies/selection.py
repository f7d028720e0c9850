"""How likely is each device to take part in a round?

A policy turns activity (examples a device holds) into participation rates, and the rates travel
with the round, so that what is accounted is the draw that was made (`strategies.draw`). The
policies here are pure: they hold no state and read no clock. One of your own may follow released
models or what devices reply, if it says so (`strategies.selective`).

Activity-based selection: Dupuy et al., "Learnings from federated learning in the real world",
ICASSP 2022, https://arxiv.org/abs/2202.03925. The family below is ours.

Every rate is q_i = min(cap, c a_i), with a_i the policy's score and c such that the rates
sum to the cohort. A device that holds nothing has rate 0 under every policy; where fewer devices
hold data than the cohort asks for (or the caps forbid more), all of them come as far as the cap
allows.

What rates mean for privacy at device level (`fedsim.privacy.device_ledger`), with equal weights:

- A cap bounds everybody. A step at rate q' < q is the step at rate q of a device that, where its
  coin shows heads, sends zeros with probability 1 - q'/q. So its loss pair is a mixture of the pair
  at rate q and of a pair of equals; delta at any epsilon is jointly convex, hence at most q'/q of
  that at rate q, in either direction. By composition no device costs more than one at the cap.
- Powers below 1 and the logarithm expose the most active device less than proportional selection,
  where no cap is reached. Scores a(n) with a(n)/n falling have mean a = mean (a/n) n >=
  (a(n_max)/n_max) mean n, so that its rate relative to the average, a(n_max) / mean a, is at most
  n_max / mean n, which is that of proportional selection; by the first point it costs no more.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedsim.errors import require


class SelectionPolicy(Protocol):
    """Activity -> participation rates.

    One whose rates follow more than activity says what, by `reads` (`strategies.selective`).
    """

    @property
    def cohort(self) -> float:
        """Expected devices a round."""

    @property
    def label(self) -> str:
        """What tables call it."""

    @property
    def natural_weighting(self) -> str:
        """Weighting that `auto` stands for: "examples", "equal" or "inverse-rate"."""

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates in [0, 1], shape (devices,)."""


def capped_rates(scores: np.ndarray, cohort: float, cap: float = 1.0) -> np.ndarray:
    """Rates min(cap, c x score) that sum to `cohort`, or as near as the caps allow.

    Args:
      scores: (devices,) finite, >= 0; a device with score 0 never takes part.
      cohort: wanted sum of the rates.
      cap: largest rate, in (0, 1].

    Returns:
      (devices,) rates. c is found exactly: the devices at the cap are those of the highest scores.

    Example:
      >>> capped_rates(np.array([1.0, 1.0, 2.0]), 2).round(2).tolist()
      [0.5, 0.5, 1.0]
    """
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    holders = int(np.count_nonzero(ranked))
    rates = np.zeros(len(scores))
    if holders * cap <= cohort:
        rates[scores > 0] = cap
        return rates
    # With the first k devices at the cap, c = (cohort - k cap) / (sum of the other scores).
    rest = np.cumsum(ranked[::-1])[::-1]
    capped = np.arange(holders)
    factor = (cohort - capped * cap) / rest[:holders]
    fits = factor * ranked[:holders] <= cap * (1 + 1e-12)
    k = int(np.argmax(fits))
    rates[order] = np.minimum(cap, factor[k] * ranked)
    rates[order[:k]] = cap
    return rates


@dataclass(frozen=True, kw_only=True)
class UniformSelection:
    """Every device that holds data is equally likely.

    Attributes:
      cohort: expected devices a round, > 0.

    Example:
      >>> UniformSelection(cohort=1).rates(np.array([5, 1, 0])).tolist()
      [0.5, 0.5, 0.0]
    """

    cohort: float
    label = "uniform"
    natural_weighting = "examples"

    def __post_init__(self) -> None:
        _check(self.cohort)

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates, shape (devices,), that sum to `cohort`."""
        return capped_rates(self.scores(activity), self.cohort)

    def scores(self, activity: np.ndarray) -> np.ndarray:
        """1 for a device that holds data, shape (devices,)."""
        return (activity > 0).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class ActivitySelection:
    """Devices take part in proportion to activity ** power, up to a cap.

    Attributes:
      cohort: expected devices a round, > 0.
      power: 0 is uniform, 0.5 square root, 1 proportional; 0 to 20.
      cap: largest rate of any device, in (0, 1]. Bounds the most active device's privacy cost.

    Example:
      >>> ActivitySelection(cohort=2).rates(np.array([1, 1, 2])).round(2).tolist()
      [0.5, 0.5, 1.0]
    """

    cohort: float
    power: float = 1.0
    cap: float = 1.0

    def __post_init__(self) -> None:
        _check(self.cohort, self.cap)
        # Beyond 20, powers of large activities leave the range of a float.
        require(0 <= self.power <= 20, f"power is {self.power}; choose 0 (uniform) to 20")

    @property
    def label(self) -> str:
        """ "activity", "sqrt" or "activity^power", with the cap where there is one."""
        name = {1.0: "activity", 0.5: "sqrt"}.get(self.power, f"activity^{self.power:g}")
        return name if self.cap == 1 else f"{name}, cap {self.cap:g}"

    @property
    def natural_weighting(self) -> str:
        """Equal for proportional selection: weighting by examples would count devices twice."""
        return "equal" if self.power == 1 else "inverse-rate"

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates, shape (devices,), that sum to `cohort` unless the cap forbids it."""
        return capped_rates(self.scores(activity), self.cohort, self.cap)

    def scores(self, activity: np.ndarray) -> np.ndarray:
        """a_i = n_i ** power, shape (devices,)."""
        held = activity > 0
        return np.where(held, np.maximum(activity, 1).astype(np.float64) ** self.power, 0.0)


@dataclass(frozen=True, kw_only=True)
class LogActivitySelection:
    """Devices take part in proportion to log(1 + activity), up to a cap.

    Attributes:
      cohort: expected devices a round, > 0.
      cap: largest rate of any device, in (0, 1].

    Example:
      >>> LogActivitySelection(cohort=1).rates(np.array([1, 3, 0])).round(3).tolist()
      [0.333, 0.667, 0.0]
    """

    cohort: float
    cap: float = 1.0
    label = "log"
    natural_weighting = "inverse-rate"

    def __post_init__(self) -> None:
        _check(self.cohort, self.cap)

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates, shape (devices,)."""
        return capped_rates(self.scores(activity), self.cohort, self.cap)

    def scores(self, activity: np.ndarray) -> np.ndarray:
        """a_i = log(1 + n_i), shape (devices,)."""
        return np.log1p(activity)


@dataclass(frozen=True, kw_only=True)
class SoftmaxSelection:
    """Devices take part in proportion to exp(activity / (temperature x mean activity)).

    Attributes:
      cohort: expected devices a round, > 0.
      temperature: >= 1e-9; high is uniform, low favours the most active devices alone.
      cap: largest rate of any device, in (0, 1].

    Example:
      >>> SoftmaxSelection(cohort=1, temperature=1).rates(np.array([2, 2, 0])).tolist()
      [0.5, 0.5, 0.0]
    """

    cohort: float
    temperature: float = 1.0
    cap: float = 1.0
    label = "softmax"
    natural_weighting = "inverse-rate"

    def __post_init__(self) -> None:
        _check(self.cohort, self.cap)
        require(self.temperature >= 1e-9, f"temperature is {self.temperature}; choose 1e-9 or more")

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates, shape (devices,)."""
        held = activity > 0
        if not held.any():
            return np.zeros(len(activity))
        exponent = activity / (self.temperature * activity[held].mean())
        # The lightest devices keep a positive rate even where the exponential underflows.
        scores = np.exp(np.maximum(exponent - exponent.max(), -600.0))
        return capped_rates(np.where(held, scores, 0.0), self.cohort, self.cap)


@dataclass(frozen=True, kw_only=True)
class TopActivitySelection:
    """Always the most active devices; ties go to the lower device id. Nobody else ever trains.

    Attributes:
      cohort: devices a round, >= 1; a fraction is cut off.

    Example:
      >>> TopActivitySelection(cohort=2).rates(np.array([1, 5, 5, 0])).tolist()
      [0.0, 1.0, 1.0, 0.0]
    """

    cohort: float
    label = "top"
    natural_weighting = "inverse-rate"

    def __post_init__(self) -> None:
        require(self.cohort >= 1, f"cohort is {self.cohort}; choose 1 or more")

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Rates of 1 for the top devices and 0 for the others, shape (devices,)."""
        rates = np.zeros(len(activity))
        rates[np.argsort(-activity, kind="stable")[: int(self.cohort)]] = 1.0
        return np.where(activity > 0, rates, 0.0)


def _check(cohort: float, cap: float = 1.0) -> None:
    require(cohort > 0, f"cohort is {cohort}; choose more than 0")
    require(0 < cap <= 1, f"cap is {cap}; choose a rate in (0, 1]")
