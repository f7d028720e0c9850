"""What epsilon do events amount to, and at which delta?

`epsilon` is the claim: the privacy loss distribution of all steps, the direction of removing and
the direction of adding composed separately over the whole run, then the larger
(`fedsim.privacy.loss`); sums without a coin cost what their closed form says. `renyi_bound` is a
labelled upper bound. A central-limit ("GDP") figure is offered nowhere: it lies below the truth.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from fedsim.errors import require
from fedsim.privacy.closed_form import gaussian_delta, gaussian_epsilon
from fedsim.privacy.events import Event, NonPrivate
from fedsim.privacy.loss import GRID, NEGLIGIBLE_NOISE, Step, compose
from fedsim.privacy.renyi import ORDERS, divergences, to_epsilon
from fedsim.privacy.step_loss import Relation

INFINITE = float("inf")

COARSE = 8 * GRID
"""Spacing on which a direction is first tried that will hardly be the worse one."""


def epsilon(events: Iterable[Event], delta: float, relation: Relation = "zero-out") -> float:
    """Smallest provable epsilon >= 0 of events that each had noise and coins of their own.

    Args:
      events: in any order; none cost nothing.
      delta: in (0, 1).
      relation: "zero-out" (the unit's contribution becomes zero; add or remove costs the same), or
        "replace-one" (it becomes another's), which an audit of single examples under device-level
        privacy has to be compared with.

    Returns:
      At most 0.1 % above the exact value on the reference values of the tests; infinite after
      anything without noise or proof.

    Example:
      >>> from fedsim.privacy.events import Gaussian
      >>> round(epsilon([Gaussian(noise_multiplier=1.0, rate=0.05, steps=100)], delta=1e-4), 2)
      2.87
    """
    _check_delta(delta)
    history = canonical(events)
    return INFINITE if history is None else history_epsilon(history, delta, relation)


def delta_at(events: Iterable[Event], epsilon: float, relation: Relation = "zero-out") -> float:
    """Smallest provable delta at an epsilon >= 0; the arguments are those of `epsilon`."""
    require(epsilon >= 0, f"epsilon is {epsilon}; choose 0 or more")
    history = canonical(events)
    if history is None:
        return 1.0
    if _quiet(history):
        return 1.0
    mu = _mu(history, relation)
    if mu is not None:
        return gaussian_delta(mu, epsilon)
    merged = _unsampled_as_one(history)
    return max(
        compose(merged, relation, "forward").delta(epsilon),
        compose(merged, relation, "backward").delta(epsilon),
    )


def renyi_bound(events: Iterable[Event], delta: float) -> float:
    """An upper bound on `epsilon` by Renyi divergences, cheap for many histories.

    Example:
      >>> from fedsim.privacy.events import Gaussian
      >>> round(renyi_bound([Gaussian(noise_multiplier=1.0, rate=0.05, steps=100)], 1e-4), 2)
      3.46
    """
    _check_delta(delta)
    history = canonical(events)
    if history is None:
        return INFINITE
    total = np.zeros(len(ORDERS))
    for rate, noise, times in history:
        total += times * divergences(rate, noise)
    return float(to_epsilon(total, delta))


def canonical(events: Iterable[Event]) -> tuple[Step, ...] | None:
    """Events as sorted steps (rate, effective noise, times); None where there is no bound."""
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        if isinstance(event, NonPrivate):
            return None
        if event.rate == 0:
            continue
        if event.noise == 0:
            return None
        counts[(float(event.rate), float(event.noise))] += int(event.steps)
    return tuple(sorted((q, s, n) for (q, s), n in counts.items()))


@lru_cache(maxsize=1 << 16)
def history_epsilon(history: tuple[Step, ...], delta: float, relation: Relation) -> float:
    """`epsilon` of steps in canonical form."""
    if _quiet(history):
        return INFINITE
    mu = _mu(history, relation)
    if mu is not None:
        return gaussian_epsilon(mu, delta)
    merged = _unsampled_as_one(history)
    forward = compose(merged, relation, "forward").epsilon(delta)
    if relation == "replace-one":
        return forward
    # On a coarse grid the other direction is an upper bound too, and usually well below this one.
    if compose(merged, relation, "backward", COARSE).epsilon(delta) <= forward:
        return forward
    return max(forward, compose(merged, relation, "backward").epsilon(delta))


def _mu(history: tuple[Step, ...], relation: Relation) -> float | None:
    """Root of the summed squares of shift over noise; None where a coin was tossed."""
    if any(q < 1 for q, _, _ in history):
        return None
    shift = 1.0 if relation == "zero-out" else 2.0
    return shift * sum(n / s**2 for _, s, n in history) ** 0.5


def _quiet(history: tuple[Step, ...]) -> bool:
    """Whether some step has next to no noise."""
    return any(s < NEGLIGIBLE_NOISE for _, s, _ in history)


def _unsampled_as_one(history: tuple[Step, ...]) -> tuple[Step, ...]:
    """Sums without a coin are together one sum with less noise."""
    precision = sum(n / s**2 for q, s, n in history if q == 1)
    sampled = tuple(step for step in history if step[0] < 1)
    return sampled if precision == 0 else (*sampled, (1.0, precision**-0.5, 1))


def _check_delta(delta: float) -> None:
    require(0 < delta < 1, f"delta is {delta}; choose a probability between 0 and 1")
