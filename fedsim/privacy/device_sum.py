"""What did a round's noised sum over devices mean for each of them?

Device i is in the sum with probability q_i and moves it by at most w_i C, under noise of standard
deviation sigma S: for it, the round is a Gaussian sampled at q_i with effective noise sigma S /
(w_i C).

Rates and weights are rounded up to a grid of ratio GRID_RATIO, so that devices share histories.
"""

from dataclasses import dataclass

import numpy as np

from fedsim.errors import require
from fedsim.privacy.events import Event, Gaussian

GRID_RATIO = 1.002
"""Neighbouring rates on the grid differ by this factor; epsilon grows at most with their square."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceSum:
    """One round's noised sum over devices, as a mechanism performed it.

    Attributes:
      event: what it is for a device of the largest weight that is certainly in the sum: one step,
        unsampled.
      rates: (devices,) participation rates in [0, 1].
      weights: (devices,) weights relative to the largest that any device may have, in [0, 1]; None
        where all are 1.
      independent: whether the cohort was drawn by independent coins. False for every other draw.
    """

    event: Event
    rates: np.ndarray
    weights: np.ndarray | None = None
    independent: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.event, Gaussian):
            steps, rate = self.event.steps, self.event.rate
            require(
                steps == 1 and rate == 1,
                f"the event of a sum over devices has {steps} steps at rate {rate:g}; give one "
                "unsampled step, the devices' rates are charged beside it",
            )
        for name, values in (("rates", self.rates), ("weights", self.weights)):
            if values is not None and len(values):
                low, high = float(values.min()), float(values.max())
                require(
                    low >= 0 and high <= 1,
                    f"{name} of a round lie in [{low:g}, {high:g}]; they must lie in [0, 1]",
                )

    @property
    def noise(self) -> float:
        """Effective noise for a device of the largest weight; 0 without noise or without proof."""
        return self.event.noise if isinstance(self.event, Gaussian) else 0.0

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates and effective noises as charged to an observer of the models, (devices,) each.

        Only for a round with noise.
        """
        rates = self.rates if self.independent else (self.rates > 0).astype(np.float64)
        rates = _on_grid(rates)
        if self.weights is None:
            return rates, np.full(len(rates), self.noise)
        weights = _on_grid(self.weights)
        silent = weights == 0
        noises = self.noise / np.where(silent, 1.0, weights)
        return np.where(silent, 0.0, rates), noises


def _on_grid(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] rounded up to powers of 1 / GRID_RATIO; 0 stays 0."""
    positive = values > 0
    # What lies on the grid but for rounding errors stays there.
    power = np.log(np.where(positive, values, 1.0)) / np.log(GRID_RATIO)
    return np.where(positive, GRID_RATIO ** np.minimum(np.ceil(power - 1e-9), 0.0), 0.0)
