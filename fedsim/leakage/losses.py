"""Which of a panel's losses does a run keep?

Those of the audited rounds, for the record, and of two earlier rounds, as references of an attack:
as much in a long run as in a short one. The earlier rounds lie a factor of two or more apart, so
that one of them is always old enough.
"""

from typing import Any

import numpy as np


class Losses:
    """Losses of the panel's rows under the models of some rounds.

    Args:
      rows: n, how many losses a round has.

    Example:
      >>> kept = Losses(rows=1)
      >>> for round in range(1, 11):
      ...     kept.add(round, np.array([round], np.float32), audited=round in (1, 10))
      >>> kept.rounds.tolist(), kept.losses.tolist()
      ([1, 10], [[1.0], [10.0]])
      >>> kept.earlier(10)
      array([4.], dtype=float32)
    """

    def __init__(self, rows: int) -> None:
        self.rounds = np.zeros(0, np.int64)
        self.losses = np.zeros((0, rows), np.float32)
        self._earlier: list[tuple[int, np.ndarray]] = []

    def add(self, round: int, losses: np.ndarray, *, audited: bool) -> None:
        """Note a measured round.

        Args:
          round: after those before.
          losses: (n,) float32.
          audited: whether the record gets them.
        """
        if audited:
            self.rounds = np.append(self.rounds, round)
            self.losses = np.concatenate([self.losses, losses[None]])
        if not self._earlier or round >= 2 * self._earlier[-1][0]:
            self._earlier = [*self._earlier[-1:], (round, losses)]

    def earlier(self, round: int) -> np.ndarray | None:
        """Losses of the newest kept round that is at most half this one; None without any."""
        old = [losses for measured, losses in self._earlier if 2 * measured <= round]
        return old[-1] if old else None

    def state_dict(self) -> dict[str, Any]:
        """All of it: numbers, arrays, lists and tuples."""
        return {"rounds": self.rounds, "losses": self.losses, "earlier": list(self._earlier)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved losses."""
        self.rounds, self.losses = state["rounds"], state["losses"]
        self._earlier = list(state["earlier"])
