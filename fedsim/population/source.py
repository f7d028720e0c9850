"""What a population needs of a corpus: counts, a device's examples, held-out examples."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fedsim.population.examples import Examples
from fedsim.population.periods import By


class Source(Protocol):
    """Where utterances come from. All arrays are deterministic.

    `by` is "device" (each person's own utterances cut into equal parts) or "clock" (the order of
    collection, or the clock of a generated corpus, cut into equal parts).
    """

    @property
    def devices(self) -> int:
        """Devices that may train."""

    def names(self) -> Sequence[str]:
        """What the corpus calls each device."""

    def counts(self, periods: int, by: By) -> np.ndarray:
        """Training examples, shape (devices, periods) int64."""

    def train(self, device: int, periods: int, by: By) -> Examples:
        """A device's training examples in its own order, periods non-decreasing."""

    def held_out(self, split: str, periods: int, by: By) -> Examples:
        """The examples of "dev" or "test", people without training data included (device < 0)."""

    def fingerprint(self) -> str:
        """SHA-256 of everything above."""
