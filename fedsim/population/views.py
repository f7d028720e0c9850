"""Populations seen through a change: examples removed, devices added.

Leakage panels and canaries are such views. They wrap a source and keep its interface.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedsim.population.examples import Examples
from fedsim.population.names import Names
from fedsim.population.periods import By, cut_evenly
from fedsim.population.source import Source


@dataclass(frozen=True, eq=False)
class Without:
    """A source without the masked training examples (flat, device by device)."""

    source: Source
    mask: np.ndarray

    @property
    def devices(self) -> int:
        """Devices, those that lost everything included."""
        return self.source.devices

    def names(self) -> Sequence[str]:
        """Names of the devices."""
        return self.source.names()

    @cached_property
    def _starts(self) -> np.ndarray:
        totals = self.source.counts(1, "device").sum(axis=1)
        return np.concatenate([[0], np.cumsum(totals)])

    def _kept(self, device: int) -> np.ndarray:
        return ~self.mask[self._starts[device] : self._starts[device + 1]]

    def counts(self, periods: int, by: By) -> np.ndarray:
        """Training examples that remain, shape (devices, periods)."""
        counts = self.source.counts(periods, by).copy()
        owner = np.searchsorted(self._starts, np.flatnonzero(self.mask), side="right") - 1
        for device in np.unique(owner):
            removed = self.source.train(int(device), periods, by).period[~self._kept(int(device))]
            counts[device] -= np.bincount(removed, minlength=periods)
        return counts

    def train(self, device: int, periods: int, by: By) -> Examples:
        """Training examples of a device that remain."""
        return self.source.train(device, periods, by).take(self._kept(device))

    def held_out(self, split: str, periods: int, by: By) -> Examples:
        """Held-out examples, unchanged."""
        return self.source.held_out(split, periods, by)

    def fingerprint(self) -> str:
        """SHA-256 of the source and the mask."""
        packed = np.packbits(self.mask).tobytes()
        return hashlib.sha256(self.source.fingerprint().encode() + packed).hexdigest()


@dataclass(frozen=True, eq=False)
class WithDevices:
    """A source with more devices appended; each is cut into periods by its own order."""

    source: Source
    extra: tuple[Examples, ...]

    @property
    def devices(self) -> int:
        """Devices of the source and the new ones."""
        return self.source.devices + len(self.extra)

    def names(self) -> Sequence[str]:
        """Names of the source's devices, then added-0, added-1, ..."""
        known, count = self.source.names(), self.source.devices
        return Names(self.devices, lambda i: known[i] if i < count else f"added-{i - count}")

    def counts(self, periods: int, by: By) -> np.ndarray:
        """Training examples, shape (devices, periods)."""
        new = [
            np.bincount(self.train(self.source.devices + i, periods, by).period, minlength=periods)
            for i in range(len(self.extra))
        ]
        return np.concatenate(
            [self.source.counts(periods, by), np.array(new, np.int64).reshape(-1, periods)]
        )

    def train(self, device: int, periods: int, by: By) -> Examples:
        """Training examples of a device."""
        index = device - self.source.devices
        if index < 0:
            return self.source.train(device, periods, by)
        examples = self.extra[index]
        count = len(examples)
        return examples.with_(
            device=np.full(count, device, np.int32),
            period=cut_evenly(np.arange(count), count, periods),
        )

    def held_out(self, split: str, periods: int, by: By) -> Examples:
        """Held-out examples, unchanged."""
        return self.source.held_out(split, periods, by)

    def fingerprint(self) -> str:
        """SHA-256 of the source and the new devices."""
        digest = hashlib.sha256(self.source.fingerprint().encode())
        for e in self.extra:
            for array in (e.token_ids, e.slots, e.offsets, e.intents, e.null):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
