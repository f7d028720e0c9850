"""Which participation rates do given privacy budgets allow?

The opposite way to a policy that is chosen for utility and then priced: each device says what it
may spend, and comes as often as that allows, whatever it holds. Two neighbours of this tool do so,
and are baselines here: one budget a group of devices, Boenisch et al., "Have it your way:
individualized privacy assignment for DP-SGD", NeurIPS 2023, https://arxiv.org/abs/2303.17046 (its
"Sample"); one budget a client, Lange et al., 2025, https://arxiv.org/abs/2501.17634.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedsim.errors import require
from fedsim.privacy import Gaussian, epsilon, noise_multiplier_for
from fedsim.privacy.device_sum import GRID_RATIO

RAREST = 10_000
"""Grid steps down to the smallest rate, about 2e-9: such a device as good as never comes."""


@dataclass(frozen=True, kw_only=True)
class BudgetSelection:
    """Every device comes as often as its own budget allows.

    Goes with equal weights, independent coins and a mechanism of the same noise multiplier and
    delta. A device's history is then at most `rounds` steps at its rate, which was chosen so that
    these cost no more than its budget: the ledger never shows more for it. Where it holds nothing
    in some period it comes less often, and pays less.

    Attributes:
      budgets: (devices,) epsilon that each device may have spent at the end, > 0; equal within a
        group.
      noise_multiplier: sigma of the mechanism, > 0.
      rounds: of the whole run.
      delta: of every budget.

    Example:
      >>> policy = BudgetSelection(budgets=(1.0, 4.0), noise_multiplier=1.0, rounds=100, delta=1e-4)
      >>> policy.rates(np.array([5, 5])).round(3).tolist()
      [0.018, 0.068]
    """

    budgets: tuple[float, ...]
    noise_multiplier: float
    rounds: int
    delta: float
    label = "budgets"
    natural_weighting = "equal"

    def __post_init__(self) -> None:
        least, most = min(self.budgets, default=0.0), max(self.budgets, default=0.0)
        require(least > 0, f"the smallest of the budgets is {least:g}; choose epsilons above 0")
        require(most < math.inf, f"the largest of the budgets is {most:g}; choose finite epsilons")
        require(
            self.noise_multiplier > 0,
            f"noise_multiplier is {self.noise_multiplier}; choose more than 0, or no budget allows "
            "any rate",
        )

    @property
    def cohort(self) -> float:
        """Expected devices a round, where all hold data."""
        return float(self._allowed.sum())

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates, shape (devices,).

        Raises:
          ConfigError: there are not as many devices as budgets.
        """
        require(
            len(activity) == len(self.budgets),
            f"there are {len(self.budgets)} budgets for {len(activity)} devices; give one each",
        )
        return np.where(activity > 0, self._allowed, 0.0)

    @cached_property
    def _allowed(self) -> np.ndarray:
        kinds, kind = np.unique(self.budgets, return_inverse=True)
        powers, power = np.empty(len(kinds)), 0
        # From the largest budget down: the next one's rate is hardly smaller, and rare steps are
        # slow to price.
        for at in range(len(kinds) - 1, -1, -1):
            power = self._least_power(float(kinds[at]), power)
            powers[at] = power
        return np.where(powers <= RAREST, GRID_RATIO**-powers, 0.0)[kind]

    def _least_power(self, budget: float, start: int) -> int:
        """Grid steps down to the largest rate within a budget, from a start that is no further."""

        def fits(power: int) -> bool:
            step = Gaussian(noise_multiplier=self.noise_multiplier, rate=GRID_RATIO**-power)
            return epsilon([step.times(self.rounds)], self.delta) <= budget

        low, high, stride = start - 1, start, 1
        while high <= RAREST and not fits(high):
            low, high, stride = high, high + stride, 2 * stride
        high = min(high, RAREST + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high


def budgets_for_cohort(
    budgets: Sequence[float], *, cohort: float, rounds: int, delta: float
) -> BudgetSelection:
    """The policy whose budgets are spent by an expected cohort: it fixes the noise multiplier.

    More noise lets every device come more often, so the noise at which the rates sum to the cohort
    is found by bisection, as Boenisch et al. do; the sum is at least the cohort.

    Args:
      budgets: (devices,) epsilons, > 0.
      cohort: expected devices a round, less than there are devices.
      rounds: of the whole run.
      delta: of every budget.

    Raises:
      ConfigError: the cohort is larger than any noise allows.

    Example:
      >>> policy = budgets_for_cohort([1.0] * 20 + [4.0] * 20, cohort=2, rounds=50, delta=1e-3)
      >>> round(policy.cohort, 2), policy.noise_multiplier > 0.5
      (2.0, True)
    """
    require(
        0 < cohort < len(budgets),
        f"cohort is {cohort:g} of {len(budgets)} devices; choose fewer than there are",
    )

    def policy(sigma: float) -> BudgetSelection:
        return BudgetSelection(
            budgets=tuple(map(float, budgets)), noise_multiplier=sigma, rounds=rounds, delta=delta
        )

    # Falls with noise, as an epsilon does: the devices that stay away.
    sigma = noise_multiplier_for(
        len(budgets) - cohort, lambda sigma: len(budgets) - policy(sigma).cohort, tolerance=1e-3
    )
    return policy(sigma)
