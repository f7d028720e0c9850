"""Who the devices are and what they hold: devices x periods of utterances.

A `Population` looks at a *source* (flat arrays read from a corpus, or a generator) through a cut
into periods. It is immutable: `cut`, `nulled`, `without` and `with_devices` return other views.

    people = Population.load("massive").cut(periods=5, by="device")
    people.activity(period=0)                     # (devices,) examples each device holds
    people.held(device=3, period=0)               # those examples
    people.test                                   # held-out utterances, never trained on
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import require
from fedsim.population.examples import Examples
from fedsim.population.labels import Inventory
from fedsim.population.periods import By, Keep
from fedsim.population.source import Source
from fedsim.population.views import WithDevices, Without
from fedsim.population.vocabulary import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset


MOST_PERIODS = np.iinfo(np.int16).max
"""Periods are stored as int16."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """Devices and their utterances, seen through one cut into periods.

    Attributes:
      name: what the corpus is called in tables.
      source: where utterances come from.
      inventory: declared intents and slot types.
      vocabulary: words to embedding rows.
      assumptions: sentences the record repeats (what was inferred, cut or left out).
      periods: number of periods.
      by: how time is cut.
      keep: what devices still hold of earlier periods.
      null: (training examples,) bool, or None; those records are null (device by device, in the
        order of `train`).
    """

    name: str
    source: Source
    inventory: Inventory
    vocabulary: Vocabulary
    assumptions: tuple[str, ...] = ()
    periods: int = 1
    by: By = "device"
    keep: Keep = Keep()  # noqa: RUF009 - frozen
    null: np.ndarray | None = field(default=None, repr=False)

    @staticmethod
    def load(corpus: str, data: str | Path | None = None, **options: Any) -> "Population":
        """A corpus by name ("home", "massive", "snips"), by file, or by hub name.

        Args:
          corpus: built-in name, path of a JSONL, CSV or Parquet file, or a hub name.
          data: folder with the shared data folders, one data folder, or a file; default
            `$FEDSIM_DATA`, then `../shared/data`.
          **options: see `fedsim.population.corpora.load`.

        Raises:
          ConfigError: the data is missing or malformed; the message says what to do.
        """
        from fedsim.population.corpora import load

        return load(corpus, data, **options)

    @staticmethod
    def from_dataset(dataset: "Dataset", **options: Any) -> "Population":
        """Any `datasets.Dataset` whose columns are named by the caller.

        Args:
          dataset: rows of utterances.
          **options: column names `user`, `text`, `tokens`, `intent`, `slots`, `split`, `order`, and
            what `fedsim.population.corpora.from_dataset` takes.
        """
        from fedsim.population.corpora import from_dataset

        return from_dataset(dataset, **options)

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.source.devices

    def cut(
        self,
        periods: int,
        by: By = "device",
        keep: Keep = Keep(),  # noqa: B008
    ) -> "Population":
        """The same people, their histories cut into `periods` parts of which they keep `keep`."""
        require(
            1 <= periods <= MOST_PERIODS,
            f"periods is {periods}; choose between 1 and {MOST_PERIODS:,}",
        )
        return replace(self, periods=periods, by=by, keep=keep)

    def nulled(self, mask: np.ndarray) -> "Population":
        """Make the masked training examples null records: slots and counts stay, content goes."""
        mask = self._checked(mask)
        return replace(self, null=mask if self.null is None else mask | self.null)

    def without(self, mask: np.ndarray) -> "Population":
        """Remove the masked training examples, and with them their counts."""
        mask = self._checked(mask)
        null = None if self.null is None else self.null[~mask]
        return replace(self, source=Without(self.source, mask), null=null)

    def with_devices(self, extra: Sequence[Examples]) -> "Population":
        """Append devices; each holds the given training examples, in their order."""
        null = None
        if self.null is not None:
            null = np.concatenate([self.null, *(part.null for part in extra)])
        return replace(self, source=WithDevices(self.source, tuple(extra)), null=null)

    @cached_property
    def counts(self) -> np.ndarray:
        """Training examples, shape (devices, periods) int64; null records are counted."""
        return self.source.counts(self.periods, self.by)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each device's training examples start in a flat mask, shape (devices + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts.sum(axis=1))])

    def activity(self, period: int = 0) -> np.ndarray:
        """Examples each device holds in a period, shape (devices,) int64."""
        return self.keep.held(self.counts, period)

    def train(self, device: int) -> Examples:
        """All training examples of a device, in its own order."""
        examples = self.source.train(device, self.periods, self.by)
        if self.null is None:
            return examples
        start, stop = self.starts[device], self.starts[device + 1]
        return examples.with_(null=examples.null | self.null[start:stop])

    def held(self, device: int, period: int, seed: int = 0) -> Examples:
        """The examples a device holds in a period; `seed` is the run's, for reservoirs."""
        examples = self.train(device)
        chosen = self.keep.select(examples.period, period, seed, device)
        return examples if len(chosen) == len(examples) else examples.take(chosen)

    @cached_property
    def dev(self) -> Examples:
        """Held-out utterances for choosing hyper-parameters."""
        return self.source.held_out("dev", self.periods, self.by)

    @cached_property
    def test(self) -> Examples:
        """Held-out utterances that are only reported."""
        return self.source.held_out("test", self.periods, self.by)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what every device holds in every period."""
        digest = hashlib.sha256(self.source.fingerprint().encode())
        digest.update(
            f"{self.periods}/{self.by}/{self.keep}/{self.inventory}/{self.vocabulary}".encode()
        )
        if self.null is not None:
            digest.update(np.packbits(self.null).tobytes())
        return digest.hexdigest()

    def _checked(self, mask: np.ndarray) -> np.ndarray:
        mask = np.asarray(mask, dtype=bool)
        total = int(self.starts[-1])
        require(
            mask.shape == (total,),
            f"mask has shape {mask.shape}; the population has {total} training examples",
        )
        return mask
