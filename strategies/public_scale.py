"""Which rates may a policy give when who takes part is itself to be protected?"""

from dataclasses import dataclass

import numpy as np

from fedsim.errors import require
from strategies.selection import (
    ActivitySelection,
    LogActivitySelection,
    SelectionPolicy,
    UniformSelection,
)


@dataclass(frozen=True, kw_only=True)
class PublicScale:
    """Rates min(cap, scale x score) that depend on a device's own data and public constants alone.

    Other policies solve for the scale at which rates sum to the cohort, so that each device's rate
    depends on everybody's data; under add/remove neighbours that would give some of it away.

    Why the claim at the cap holds: two neighbours differ in one device, and all others have the
    same rates, weights and coins in both, since nothing normalises over devices. Noise and
    denominator are constants. Given the others, a round is one Gaussian sum that the device joins
    at its own rate, at most the cap, with its own weight, at most the bound; at lower ones it costs
    no more (`strategies.selection`). So the epsilon of a device at cap and bound holds for whoever
    joins or leaves, whatever its activity, which is why activity is protected too.

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
