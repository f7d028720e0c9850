"""What has example-level privacy cost each device so far?

Only devices that took part have an account: how often each kind of local step was charged to them.
Neighbouring data differ in one record of one device, so the claim is the largest account (parallel
composition), and it holds before all three observers, the server included. A participation is
charged in full when it is drawn (`ExampleLevel.participation`); the coin that drew the device
counts for nothing, and nothing is refunded. Who takes part must not follow from the data: a number
of participations that came about by what was released is no claim.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedsim.errors import require
from fedsim.privacy.accounting import canonical, history_epsilon
from fedsim.privacy.events import Event
from fedsim.privacy.groups import Groups
from fedsim.privacy.loss import Step


class ExampleLedger:
    """Realised example-level cost of every device. It holds before the server too.

    Args:
      devices: how many the run has.
      delta: of every epsilon it reports, in (0, 1).

    Example:
      >>> from fedsim.privacy.events import Gaussian
      >>> ledger = ExampleLedger(2, delta=1e-5)
      >>> ledger.charge(0, [Gaussian(noise_multiplier=1.0, rate=0.1, steps=10)])
      >>> {name: round(value, 2) for name, value in ledger.figures().items()}
      {'example_epsilon_max': 2.85, 'example_epsilon_median': 2.85}
    """

    def __init__(self, devices: int, delta: float) -> None:
        require(devices >= 1, f"devices is {devices}; a ledger needs 1 or more")
        require(0 < delta < 1, f"delta is {delta}; choose a probability between 0 and 1")
        self.devices, self.delta = devices, delta
        self._spent: dict[int, dict[tuple[float, float], int]] = {}
        self._taken: dict[int, int] = {}
        self._broken: set[int] = set()
        self._reported: dict[str, float] = {}

    def charge(self, device: int, events: Iterable[Event]) -> None:
        """Charge one participation, when it is drawn.

        Args:
          device: its id.
          events: of all its local steps, as `ExampleLevel.participation` gives them.
        """
        self._taken[device] = self._taken.get(device, 0) + 1
        steps = canonical(events)
        if steps is None:
            self._broken.add(device)
            return
        spent = self._spent.setdefault(device, {})
        for rate, noise, times in steps:
            spent[(rate, noise)] = spent.get((rate, noise), 0) + times

    def void(self) -> None:
        """End every claim, for all devices and for ever."""
        self._broken = set(range(self.devices))

    def participations(self, device: int) -> int:
        """How often the device was drawn."""
        return self._taken.get(device, 0)

    def figures(self) -> dict[str, float]:
        """`example_epsilon_max` and `example_epsilon_median` (over all devices, from above)."""
        groups, _ = self._groups()
        bounds = groups.bounds(self.delta)
        everyone = np.arange(len(bounds))
        highest, median = float("inf"), float("inf")
        if not self._broken:
            highest = groups.worst(bounds, self.delta, everyone).epsilon
        middle = self.devices // 2 + 1
        if middle <= self.devices - len(self._broken):
            median = groups.ranked(bounds, self.delta, middle).epsilon
        found = {"example_epsilon_max": highest, "example_epsilon_median": median}
        for name, value in found.items():
            self._reported[name] = max(value, self._reported.get(name, 0.0))
        return dict(self._reported)

    def bounds(self) -> np.ndarray:
        """Renyi upper bound on every device's epsilon, shape (devices,)."""
        groups, numbers = self._groups()
        found = np.zeros(self.devices)
        bounds = groups.bounds(self.delta)
        for device, group in numbers.items():
            found[device] = bounds[group]
        found[list(self._broken)] = np.inf
        return found

    def epsilons(self, devices: Sequence[int], delta: float | None = None) -> np.ndarray:
        """Exact epsilons of some devices, such as an audit's panel.

        Args:
          devices: (n,) ids.
          delta: instead of the ledger's own.

        Returns:
          (n,) epsilons, under zero-out of one record.
        """
        at = self.delta if delta is None else delta
        return np.array(
            [
                np.inf if d in self._broken else history_epsilon(self._history(d), at, "zero-out")
                for d in map(int, devices)
            ]
        )

    def highest(self, devices: np.ndarray, delta: float) -> float:
        """The largest of `epsilons`, without pricing all of them; 0 of no devices."""
        ids = devices.tolist()
        if not self._broken.isdisjoint(ids):
            return float("inf")
        groups, numbers = self._groups()
        # Who never took part is in group 0, whose history is empty.
        among = np.unique([numbers.get(device, 0) for device in ids]).astype(np.int64)
        if len(among) == 0:
            return 0.0
        return groups.worst(groups.bounds(delta), delta, among).epsilon

    def state_dict(self) -> dict[str, Any]:
        """Charges so far: numbers, arrays, lists and dicts."""
        rows = [(d, q, s, n) for d, spent in self._spent.items() for (q, s), n in spent.items()]
        return {
            "spent": np.array(rows, np.float64).reshape(-1, 4),
            "taken": np.array(list(self._taken.items()), np.int64).reshape(-1, 2),
            "broken": np.array(sorted(self._broken), np.int64),
            "reported": dict(self._reported),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved charges."""
        self._spent = {}
        for device, rate, noise, times in state["spent"].tolist():
            self._spent.setdefault(int(device), {})[(rate, noise)] = int(times)
        self._taken = {int(device): int(times) for device, times in state["taken"]}
        self._broken = set(state["broken"].tolist())
        self._reported = dict(state["reported"])

    def _history(self, device: int) -> tuple[Step, ...]:
        spent = self._spent.get(device, {})
        return tuple(sorted((q, s, n) for (q, s), n in spent.items()))

    def _groups(self) -> tuple[Groups, dict[int, int]]:
        """Distinct histories of devices with a bound, and the group of each that took part."""
        numbers: dict[tuple[Step, ...], int] = {(): 0}
        group = {
            device: numbers.setdefault(self._history(device), len(numbers))
            for device in self._spent
            if device not in self._broken
        }
        members = np.bincount(list(group.values()), minlength=len(numbers))
        members[0] += self.devices - len(group) - len(self._broken)
        table = np.zeros((len(numbers), max(1, *map(len, numbers)), 3))
        table[..., 1] = np.inf
        for history, number in numbers.items():
            table[number, : len(history)] = np.array(history).reshape(-1, 3)
        times = table[..., 2].astype(np.int64)
        return Groups(
            rates=table[..., 0], noises=table[..., 1], times=times, members=members
        ), group
