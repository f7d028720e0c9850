"""Which steps has each of very many devices been charged for, without a table of rounds?

Within a period a device's rate stays as it is, so its rounds there are one pair: the step it was
charged for and how often. A new column of pairs is opened only when some device is charged for a
step that differs from its present one: memory is devices x periods, whatever the number of rounds.
"""

from typing import Any

import numpy as np

from fedsim.privacy.groups import Groups, unique_pairs

NONE = -1
"""Stands for no step."""


class Histories:
    """Charges of every device. They only ever grow.

    Args:
      devices: how many.

    Example:
      >>> charged = Histories(3)
      >>> for _ in range(10):
      ...     charged.add(np.array([0.5, 0.5, 0.0]), np.array([1.0, 1.0, 1.0]))
      >>> groups, group = charged.groups()
      >>> groups.history(group[0]), groups.history(group[2])
      (((0.5, 1.0, 10),), ())
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._kinds: list[tuple[float, float]] = []
        self._columns: list[tuple[np.ndarray, np.ndarray]] = []
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, rates: np.ndarray, noises: np.ndarray) -> None:
        """Charge one step a device.

        Args:
          rates: (devices,) in [0, 1]; a device at 0 is not charged.
          noises: (devices,) effective noises, > 0.
        """
        step = self._steps(rates, noises)
        charged = step != NONE
        if (
            not self._columns
            or (charged & (self._columns[-1][0] != NONE) & (self._columns[-1][0] != step)).any()
        ):
            empty = np.full(self._devices, NONE, np.int32), np.zeros(self._devices, np.int32)
            self._columns.append(empty)
        steps, times = self._columns[-1]
        np.copyto(steps, step, where=charged)
        times += charged

    def groups(self) -> tuple[Groups, np.ndarray]:
        """The distinct histories, and (devices,) which of them is each device's."""
        code = np.zeros(self._devices, np.int64)
        for steps, times in self._columns:
            most = int(times.max(initial=0)) + 1
            pair = ranked((steps.astype(np.int64) - NONE) * most + times)
            code = ranked(code * (int(pair.max()) + 1) + pair)
        members = np.bincount(code)
        one = np.empty(len(members), np.int64)
        # The last that is written stays: the first device of each history.
        one[code[::-1]] = np.arange(self._devices)[::-1]
        steps = np.array([s[one] for s, _ in self._columns], np.int64).reshape(-1, len(one)).T
        times = np.array([t[one] for _, t in self._columns], np.int64).reshape(-1, len(one)).T
        # The last row is what NONE points to.
        table = np.array([*self._kinds, (0.0, np.inf)])
        groups = Groups(rates=table[steps, 0], noises=table[steps, 1], times=times, members=members)
        return groups, code

    def copy(self) -> "Histories":
        """The same charges, to try out another one."""
        other = Histories(self._devices)
        other.load_state_dict(self.state_dict())
        other._last = self._last
        return other

    def state_dict(self) -> dict[str, Any]:
        """Arrays and numbers."""
        return {
            "rates": np.array([q for q, _ in self._kinds]),
            "noises": np.array([s for _, s in self._kinds]),
            "steps": [steps.copy() for steps, _ in self._columns],
            "times": [times.copy() for _, times in self._columns],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved charges."""
        self._kinds = list(zip(state["rates"].tolist(), state["noises"].tolist(), strict=True))
        self._columns = [
            (steps.copy(), times.copy())
            for steps, times in zip(state["steps"], state["times"], strict=True)
        ]
        self._last = None

    def _steps(self, rates: np.ndarray, noises: np.ndarray) -> np.ndarray:
        """(devices,) number of each device's step; rounds of a period repeat the last answer."""
        if self._last is not None and _same(self._last, rates, noises):
            return self._last[2]
        pairs, place = unique_pairs(rates, noises)
        known = {pair: number for number, pair in enumerate(self._kinds)}
        numbers = np.full(len(pairs), NONE, np.int32)
        for index, (rate, noise) in enumerate(pairs):
            if rate > 0:
                numbers[index] = known.setdefault((rate, noise), len(known))
        self._kinds = list(known)
        self._last = rates.copy(), noises.copy(), numbers[place]
        return self._last[2]


def ranked(values: np.ndarray) -> np.ndarray:
    """Which of the distinct values, in increasing order, stands at each place.

    Args:
      values: (n,) integers >= 0.

    Example:
      >>> ranked(np.array([7, 3, 7, 5])).tolist()
      [2, 0, 2, 1]
    """
    largest = int(values.max())
    if largest > 4 * len(values):
        return np.unique(values, return_inverse=True)[1]
    # Counting beats sorting, which for a million devices costs more than all else of a reading.
    seen = np.zeros(largest + 1, bool)
    seen[values] = True
    return (np.cumsum(seen) - 1)[values]


def _same(last: tuple[np.ndarray, ...], rates: np.ndarray, noises: np.ndarray) -> bool:
    return np.array_equal(last[0], rates) and np.array_equal(last[1], noises)
