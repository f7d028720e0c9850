"""What every candidate of a benchmark trains: one population and one model, the same for all.

600 devices with a heavy-tailed number of 16-token utterances, a bidirectional LSTM for joint intent
and slots (0.56 M parameters), cohorts of 32, one local epoch of SGD in batches of 16. Words and
labels are random: the work is that of real training, and there is nothing to learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clients import NLUClient
from fedsim.errors import require
from fedsim.models import BiLSTMTagger
from fedsim.population import Examples, HashedVocabulary, Inventory, Population
from fedsim.population.arrays import SPLITS, ArraySource
from fedsim.rng import stream

VOCABULARY = HashedVocabulary(buckets=4999, pieces=1)
"""5,000 rows, one a word."""

INVENTORY = Inventory(
    intents=tuple(f"intent{i}" for i in range(64)),
    slot_types=tuple(f"slot{i}" for i in range(50)),
)
"""64 intents; 101 slot labels, the odd number nearest to 100 (O, and B- and I- of each type)."""

EMBEDDING, HIDDEN, TOKENS = 64, 128, 16

BATCH_SIZE, LEARNING_RATE = 16, 0.1


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How much of it.

    Attributes:
      devices: in all, >= 1.
      cohort: devices a round, 1 .. devices.
      held_out: utterances that probes score.
    """

    devices: int = 600
    cohort: int = 32
    held_out: int = 2000

    def __post_init__(self) -> None:
        require(
            1 <= self.cohort <= self.devices,
            f"cohort is {self.cohort} of {self.devices} devices; choose 1 to {self.devices}",
        )

    def population(self) -> Population:
        """Devices with lognormal(2.8, 1) utterances, between 2 and 500."""
        draw = stream(0, "workload")
        sizes = np.clip(np.round(draw.lognormal(2.8, 1.0, self.devices)), 2, 500).astype(np.int64)
        # The held-out utterances are nobody's who trains.
        person = np.repeat(np.arange(self.devices + 1), [*sizes, self.held_out])
        count, words = len(person), len(person) * TOKENS
        trains = person < self.devices
        examples = Examples(
            token_ids=draw.integers(1, VOCABULARY.rows, (words, 1), np.int32),
            slots=draw.integers(0, len(INVENTORY.slot_labels), words, np.int16),
            offsets=np.arange(count + 1) * TOKENS,
            intents=draw.integers(0, len(INVENTORY.intents), count, np.int16),
            device=np.where(trains, person, -1).astype(np.int32),
            period=np.zeros(count, np.int16),
            null=np.zeros(count, bool),
        )
        source = ArraySource(
            examples=examples,
            person=person,
            split=np.where(trains, SPLITS.index("train"), SPLITS.index("test")).astype(np.int8),
            order=np.arange(count),
            device_names=tuple(f"device{i}" for i in range(self.devices)),
        )
        return Population(
            name="workload", source=source, inventory=INVENTORY, vocabulary=VOCABULARY
        )

    def model(self, population: Population) -> BiLSTMTagger:
        """The bidirectional LSTM."""
        return BiLSTMTagger.sized_for(population, embedding=EMBEDDING, hidden=HIDDEN)

    def client(self) -> NLUClient:
        """One epoch of SGD in batches of 16."""
        return NLUClient(batch_size=BATCH_SIZE, local_epochs=1, learning_rate=LEARNING_RATE)

    def save(self, path: Path, cohorts: Sequence[np.ndarray]) -> None:
        """Write what is trained, for peers; `peers.tagger.Task` reads it.

        Args:
          path: the file.
          cohorts: (rounds,) device ids of every round, as many in each.
        """
        people = self.population()
        held = [people.held(device, 0) for device in range(self.devices)]
        sizes = [len(each) for each in held]
        labels = len(INVENTORY.intents), len(INVENTORY.slot_labels)
        np.savez(
            path,
            token_ids=np.concatenate([e.token_ids for e in held]).reshape(-1, TOKENS).astype(int),
            slots=np.concatenate([e.slots for e in held]).reshape(-1, TOKENS).astype(int),
            intents=np.concatenate([e.intents for e in held]).astype(int),
            offsets=np.cumsum([0, *sizes]),
            shape=np.array([VOCABULARY.rows, EMBEDDING, HIDDEN, *labels]),
            cohorts=np.stack(cohorts),
            batch_size=np.array(BATCH_SIZE),
            learning_rate=np.array(LEARNING_RATE),
        )
