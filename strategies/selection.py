"""Which devices take part in a round, and how likely each was to.

A policy turns activity (examples a device holds) into participation rates, and the rates travel
with the round, so that what is accounted is the draw that was made. Policies are pure: they hold
no state and read no clock.

Activity-based selection: Dupuy et al., "Learnings from federated learning in the real world",
ICASSP 2022, https://arxiv.org/abs/2202.03925. The family below is ours.

Every rate is q_i = min(cap, c a_i), with a_i the policy's score and c such that the rates
sum to the cohort. A device that holds nothing has rate 0 under every policy; where fewer devices
hold data than the cohort asks for (or the caps forbid more), all of them come as far as the cap
allows.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedsim.errors import require
from fedsim.plan import Draw
from fedsim.rng import stream

IN_A_BIN = 16
"""Devices that share a bin of a fixed-size draw, on average."""


class SelectionPolicy(Protocol):
    """Activity -> participation rates."""

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


@dataclass(frozen=True, kw_only=True)
class PublicScale:
    """Rates min(cap, scale x score) that depend on a device's own data and public constants alone.

    Other policies solve for the scale at which rates sum to the cohort, so that each device's rate
    depends on everybody's data; under add/remove neighbours that would give some of it away.

    Attributes:
      policy: whose scores are scaled: uniform, log, or a power of activity; its cap is the public
        bound on every rate, below 1 for a uniform policy only through the scale.
      scale: c, chosen without looking at the devices, > 0.

    Example:
      >>> public = PublicScale(policy=ActivitySelection(cohort=2, cap=0.5), scale=0.1)
      >>> public.rates(np.array([1, 2, 30])).round(2).tolist(), public.public_cap
      ([0.1, 0.2, 0.5], 0.5)
    """

    policy: SelectionPolicy
    scale: float

    def __post_init__(self) -> None:
        known = (UniformSelection, ActivitySelection, LogActivitySelection)
        require(
            isinstance(self.policy, known),
            f"{type(self.policy).__name__} compares devices, so no public scale fits it; choose "
            "UniformSelection, LogActivitySelection or ActivitySelection",
        )
        require(0 < self.scale < np.inf, f"scale is {self.scale}; choose a finite number above 0")

    @property
    def cohort(self) -> float:
        """What the wrapped policy expects; the real size depends on who there is."""
        return self.policy.cohort

    @property
    def public_cap(self) -> float:
        """The largest rate that any device could have."""
        if isinstance(self.policy, UniformSelection):
            return min(1.0, self.scale)
        return self.policy.cap  # type: ignore[attr-defined]

    @property
    def label(self) -> str:
        """The wrapped policy's, with the scale."""
        return f"{self.policy.label}, scale {self.scale:g}"

    @property
    def natural_weighting(self) -> str:
        """The wrapped policy's."""
        return self.policy.natural_weighting

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates, shape (devices,)."""
        scores = self.policy.scores(activity)  # type: ignore[attr-defined]
        return np.minimum(self.public_cap, self.scale * scores)


def draw_cohort(rates: np.ndarray, draw: Draw, seed: int, round: int) -> np.ndarray:
    """Device ids of one round, increasing; a pure function of its arguments.

    "poisson": independent coins, so a cohort of none is an ordinary outcome. "fixed": systematic
    sampling in random order (Madow 1949): the cohort's size is the sum of the rates (or one of the
    two integers around it), and each device's inclusion probability is exactly its rate, which
    drawing one by one without replacement would not give.

    Args:
      rates: (devices,) in [0, 1].
      draw: "poisson" or "fixed".
      seed: the run's.
      round: from 1.
    """
    random = stream(seed, "cohort", round)
    if draw == "poisson":
        return np.flatnonzero(random.random(len(rates)) < rates)
    return _systematic(rates, random)


def _systematic(rates: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Devices laid end to end in random order, each as long as its rate: who lies at the marks.

    Marks are 1 apart, the first of them uniform in (0, 1]. To put a million devices into an order
    costs more than all else in a draw, so they are thrown into bins, and only the bins that a mark
    falls into are put in order within.
    """
    candidates = np.flatnonzero(rates)
    lengths, bins = rates[candidates], len(candidates) // IN_A_BIN + 1
    bin = random.integers(bins, size=len(candidates), dtype=np.uint32)
    sums = np.bincount(bin, lengths, minlength=bins)
    ends, first = np.cumsum(sums), 1 - random.random()
    # Rounding keeps sums that are whole numbers whole, so that the size does not wobble.
    marks = first + np.arange(np.floor(round(ends[-1], 9) - first) + 1)
    hit = np.minimum(np.searchsorted(ends, marks), bins - 1)
    opened = np.zeros(bins, bool)
    opened[hit] = True
    inside = random.permutation(np.flatnonzero(opened[bin]))
    inside = inside[np.argsort(bin[inside], kind="stable")]
    # The bins that stay closed are taken out from between the others.
    marks -= np.cumsum(np.where(opened, 0.0, sums))[hit]
    at = np.searchsorted(np.cumsum(lengths[inside]), marks)
    return np.sort(candidates[inside[np.minimum(at, len(inside) - 1)]])


def _check(cohort: float, cap: float = 1.0) -> None:
    require(cohort > 0, f"cohort is {cohort}; choose more than 0")
    require(0 < cap <= 1, f"cap is {cap}; choose a rate in (0, 1]")
