"""What a device holds in a period: how time is cut, and what is kept of the past.

A period is a slice of people's histories. `Keep` says which earlier slices a device still has when
it trains. Both are pure functions of (seed, device, period), so a checkpoint stores none of it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.errors import require
from fedsim.rng import stream

By = Literal["device", "clock"]


def cut_evenly(position: np.ndarray, total: np.ndarray | int, periods: int) -> np.ndarray:
    """Period of each position when `total` positions are cut into equal parts.

    Example:
      >>> cut_evenly(np.arange(5), 5, 2).tolist()
      [0, 0, 0, 1, 1]
    """
    return np.minimum(position * periods // np.maximum(total, 1), periods - 1).astype(np.int16)


@dataclass(frozen=True)
class Keep:
    """What survives of earlier periods.

    Attributes:
      kind: "current" (the past is deleted), "window" (the last `size` periods, this one included),
        "reservoir" (this period and a uniform sample of at most `size` earlier examples), "all".
      size: periods of a window, examples of a reservoir; 0 otherwise.

    Example:
      >>> Keep.parse("window:2")
      Keep(kind='window', size=2)
    """

    kind: str = "current"
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Read `current`, `all`, `window:k` or `reservoir:n`.

        Raises:
          ConfigError: any other text.
        """
        kind, _, number = text.partition(":")
        sized = kind in ("window", "reservoir")
        valid = (sized and number.isdecimal() and int(number) > 0) or (
            kind in ("current", "all") and number == "" and ":" not in text
        )
        require(
            valid,
            f"keep is {text!r}; expected current, all, window:k (k periods) or reservoir:n "
            "(n examples), with k and n at least 1",
        )
        return cls(kind, int(number) if sized else 0)

    def __str__(self) -> str:
        return f"{self.kind}:{self.size}" if self.size else self.kind

    def held(self, counts: np.ndarray, period: int) -> np.ndarray:
        """Examples held in `period`, shape (devices,), from counts (devices, periods)."""
        now = counts[:, period]
        if self.kind == "current":
            return now.copy()
        if self.kind == "window":
            return counts[:, max(0, period - self.size + 1) : period + 1].sum(axis=1)
        past = counts[:, :period].sum(axis=1)
        return now + (np.minimum(past, self.size) if self.kind == "reservoir" else past)

    def select(self, periods: np.ndarray, period: int, seed: int, device: int) -> np.ndarray:
        """Which of a device's examples it holds in `period`.

        Args:
          periods: (examples,) period of each, non-decreasing.
          period: the present one.
          seed: the run's seed; used by reservoirs alone.
          device: the device.

        Returns:
          Indices, increasing. A reservoir keeps the past examples of smallest random priority, so
          what has been dropped never returns.
        """
        now = np.flatnonzero(periods == period)
        if self.kind == "current":
            return now
        if self.kind == "window":
            return np.flatnonzero((periods <= period) & (periods > period - self.size))
        past = np.flatnonzero(periods < period)
        if self.kind == "reservoir" and len(past) > self.size:
            priority = stream(seed, "reservoir", device=device).random(len(periods))
            past = np.sort(past[np.argsort(priority[past])[: self.size]])
        return np.concatenate([past, now])
