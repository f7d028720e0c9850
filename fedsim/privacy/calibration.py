"""How much noise does a target epsilon need?

Epsilon falls as noise grows: a sum under more noise is the sum under less, to which an observer
could have added the difference, and what is made of a release costs nothing further. So the
least noise is found by bisection; the answer is always the end at which the target is met, never
the one just below it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fedsim.errors import ConfigError, require
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.events import Gaussian
from fedsim.privacy.groups import Groups
from fedsim.privacy.histories import Histories

MOST_NOISE = 2.0**20
"""Noise multiplier at which the search gives up: no model would be left."""

LEAST_NOISE = 2.0**-6
"""Noise multiplier below which nobody means privacy, and at which the search stops."""


def noise_multiplier_for(
    target: float, epsilon_at: Callable[[float], float], tolerance: float = 1e-4
) -> float:
    """Least noise multiplier that keeps epsilon within a target.

    Args:
      target: epsilon, > 0.
      epsilon_at: epsilon of the whole run at a noise multiplier; does not rise with it.
      tolerance: relative, of the answer; it errs on the side of more noise.

    Returns:
      A noise multiplier at which epsilon is at most the target; LEAST_NOISE where that suffices.

    Raises:
      ConfigError: no noise reaches the target.

    Example:
      >>> from fedsim.privacy.accounting import epsilon
      >>> step = lambda sigma: Gaussian(noise_multiplier=sigma, rate=0.05)
      >>> run = lambda sigma: epsilon([step(sigma).times(100)], delta=1e-4)
      >>> round(noise_multiplier_for(2.87, run), 3)
      1.0
    """
    require(target > 0, f"the target epsilon is {target}; choose more than 0")
    high = 1.0
    while epsilon_at(high) > target:
        high *= 2
        if high > MOST_NOISE:
            raise ConfigError(
                f"no noise multiplier up to {MOST_NOISE:g} reaches epsilon {target:g}; choose a "
                "larger epsilon or delta, fewer rounds, or a mechanism with a proof"
            )
    low = high / 2
    while high > LEAST_NOISE and epsilon_at(low) <= target:
        low, high = low / 2, low
    if high <= LEAST_NOISE:
        return LEAST_NOISE
    while high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        if epsilon_at(middle) <= target:
            high = middle
        else:
            low = middle
    return high


def device_level_noise(
    target: float,
    delta: float,
    periods: Sequence[tuple[np.ndarray, np.ndarray | None, int]],
    independent: bool = True,
) -> float:
    """Noise multiplier at which the worst device of a run stays within a target epsilon.

    Args:
      target: epsilon of the worst device before an observer of the models, > 0.
      delta: in (0, 1).
      periods: one (rates (devices,), relative weights (devices,) or None, rounds) a period.
      independent: whether cohorts are drawn by independent coins.

    Returns:
      sigma, with noise of standard deviation sigma x C x largest weight.

    Raises:
      ConfigError: no noise reaches the target.

    Example:
      >>> periods = [(np.array([0.02, 0.2]), None, 100)]
      >>> round(device_level_noise(12.7, 1e-4, periods), 2)
      1.0
    """
    groups = _unit_noise(periods, independent)
    everyone = np.arange(len(groups.members))

    def worst(noise_multiplier: float) -> float:
        scaled = groups.with_noise(noise_multiplier)
        return scaled.worst(scaled.bounds(delta), delta, everyone).epsilon

    return noise_multiplier_for(target, worst)


def _unit_noise(
    periods: Sequence[tuple[np.ndarray, np.ndarray | None, int]], independent: bool
) -> Groups:
    """The whole run's histories at noise multiplier 1."""
    histories = Histories(len(periods[0][0]))
    for rates, weights, rounds in periods:
        planned = DeviceSum(
            event=Gaussian(noise_multiplier=1.0),
            rates=rates,
            weights=weights,
            independent=independent,
        )
        steps = planned.steps()
        for _ in range(rounds):
            histories.add(*steps)
    return histories.groups()[0]
