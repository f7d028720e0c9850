"""May a device be charged once more, where rates or noise depend on what was released before?

Then the steps to come are not known in advance, and adding up epsilons of a history chosen on the
way is not covered by ordinary composition. A Renyi filter is: fix an order alpha before the run,
convert the budget into a divergence once, and let a device take part only while the divergences it
was charged, this round's included, stay within it (Feldman and Zrnic, "Individual privacy
accounting via a Renyi filter", NeurIPS 2021, https://arxiv.org/abs/2008.11193, theorem 4.3).
"""

from typing import Any

import numpy as np

from fedsim.errors import require
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.groups import unique_pairs
from fedsim.privacy.renyi import ORDERS, divergences, to_divergence


class RenyiFilter:
    """Divergence that each device has spent, at one order, of a budget fixed in advance.

    Args:
      devices: how many.
      epsilon: budget of every device at `delta`, > 0.
      delta: in (0, 1).
      order: alpha, one of `fedsim.privacy.renyi.ORDERS`.

    Raises:
      ConfigError: the order is not on offer, or leaves no budget at this epsilon and delta.

    Example:
      >>> from fedsim.privacy.events import Gaussian
      >>> filter = RenyiFilter(2, epsilon=4.0, delta=1e-4, order=5)
      >>> planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=np.array([0.05, 1.0]))
      >>> filter.admits(planned).tolist()
      [True, False]
    """

    def __init__(self, devices: int, epsilon: float, delta: float, order: float) -> None:
        require(epsilon > 0, f"epsilon is {epsilon}; choose more than 0")
        require(0 < delta < 1, f"delta is {delta}; choose a probability between 0 and 1")
        offered = np.flatnonzero(order == ORDERS)
        require(
            len(offered) == 1,
            f"order is {order}; choose one of {', '.join(f'{o:g}' for o in ORDERS)}",
        )
        self._order = int(offered[0])
        self.budget = float(to_divergence(epsilon, delta)[self._order])
        require(
            self.budget > 0,
            f"order {order:g} leaves nothing of epsilon {epsilon:g} at delta {delta:g}; "
            "choose a larger order",
        )
        self._spent = np.zeros(devices)

    def admits(self, planned: DeviceSum) -> np.ndarray:
        """Which devices the round would leave within budget, shape (devices,)."""
        return self._spent + self._cost(planned) <= self.budget

    def spend(self, planned: DeviceSum) -> None:
        """Charge a round as it is drawn; devices that were not admitted must be at rate 0 in it.

        Raises:
          ConfigError: a device would exceed its budget.
        """
        spent = self._spent + self._cost(planned)
        over = int((spent > self.budget).sum())
        require(
            over == 0,
            f"the round takes {over} devices over their budget; set the rates of devices that "
            "admits() turns away to 0",
        )
        self._spent = spent

    def state_dict(self) -> dict[str, Any]:
        """What was spent."""
        return {"spent": self._spent.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._spent = state["spent"].copy()

    def _cost(self, planned: DeviceSum) -> np.ndarray:
        if planned.noise == 0:
            return np.full(len(planned.rates), np.inf)
        pairs, place = unique_pairs(*planned.steps())
        return np.array([divergences(q, s)[self._order] for q, s in pairs])[place]
