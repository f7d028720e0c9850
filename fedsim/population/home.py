"""A corpus of people talking to their homes, generated: who they are, when and what they say.

People differ in what they ask for and how they say it, a few say thousands of things and many a
handful, and what is in use changes over time, as in the field. Everything is a function of
(seed, person): device 7 of a thousand is device 7 of a million. Counts of all devices are one
vectorised draw; contents are generated when they are asked for.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np

from fedsim.errors import require
from fedsim.population.arrays import SPLITS
from fedsim.population.examples import UNSEEN, Examples, Utterance
from fedsim.population.home_grammar import STEPS, Said, grammar, speak
from fedsim.population.home_people import People, fill, meet
from fedsim.population.names import Names
from fedsim.population.periods import By
from fedsim.population.population import Population
from fedsim.population.vocabulary import HashedVocabulary, Vocabulary
from fedsim.rng import stream

VERSION = 1
"""Changes whenever the same (seed, person) would say something else."""

HELD_OUT_CAP = 5_000
"""Most utterances of dev, and of test; a fifth of test is reserved for people who never train."""

MOST_DEVICES = 10_000_000
"""Who says how much is drawn for all people at once; so many take a gigabyte."""

CACHED_UTTERANCES = 200_000
"""Utterances kept in memory once they were generated."""


def home(devices: int = 1000, seed: int = 0, vocabulary: Vocabulary | None = None) -> Population:
    """The built-in corpus: utterances to a smart home, with personas, heavy tails and drift.

    Args:
      devices: people who train, 1 to MOST_DEVICES; another 5 % of all people are only in test.
      seed: names the corpus; another seed is other people.
      vocabulary: words to embedding rows; default `HashedVocabulary()`.

    Raises:
      ConfigError: no devices, or too many.

    Example:
      >>> people = home(devices=20)
      >>> people.devices, people.cut(periods=5).counts.shape, len(people.inventory.intents)
      (20, (20, 5), 33)
    """
    vocabulary = HashedVocabulary() if vocabulary is None else vocabulary
    return Population(
        name="home",
        source=HomeSource(devices=devices, seed=seed, vocabulary=vocabulary),
        inventory=grammar().inventory,
        vocabulary=vocabulary,
        assumptions=(
            "home is generated, nobody said any of it; "
            f"dev and test hold at most {HELD_OUT_CAP:,} utterances each",
        ),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class HomeSource:
    """The people of `home` and what they say; a `Source`.

    People 0 .. devices - 1 train; those from `devices` on never do, and all they say is in test.

    Attributes:
      devices: people who train, 1 to MOST_DEVICES.
      seed: names the corpus.
      vocabulary: words to embedding rows.

    Raises:
      ConfigError: no devices, or too many.
    """

    devices: int
    seed: int
    vocabulary: Vocabulary
    _cache: "_Cache" = field(init=False, repr=False, default_factory=lambda: _Cache())

    def __post_init__(self) -> None:
        require(
            1 <= self.devices <= MOST_DEVICES,
            f"devices is {self.devices}; choose between 1 and {MOST_DEVICES:,}",
        )

    def names(self) -> Sequence[str]:
        """home-0, home-1, ...; each made when it is asked for."""
        return Names(self.devices, "home-{}".format)

    def counts(self, periods: int, by: By) -> np.ndarray:
        """Training examples, shape (devices, periods) int64."""
        people = self._people.at(slice(self.devices))
        return np.diff(people.trained(people.edges(periods, by)), axis=1)

    def train(self, device: int, periods: int, by: By) -> Examples:
        """A device's training examples in the order in which it said them."""
        examples, position = self._cache.get(device, self._train)
        return examples.with_(period=self._alone(device).period(position, periods, by))

    def held_out(self, split: str, periods: int, by: By) -> Examples:
        """At most HELD_OUT_CAP examples of "dev" or "test", the same under every cut."""
        examples, person, position = self._dev if split == "dev" else self._test
        return examples.with_(period=self._people.at(person).period(position, periods, by))

    def fingerprint(self) -> str:
        """SHA-256 of what everything is generated from, and of who says how much when."""
        digest = hashlib.sha256(f"home/{VERSION}/{self.seed}/{self.devices}/".encode())
        digest.update(self.vocabulary.describe().encode())
        table = grammar()
        digest.update(f"{table.inventory}{table.words}".encode())
        drawn_from = (table.starts, table.pieces, table.way_weights, table.schedule, table.values)
        for array in (*drawn_from, table.loyalty, table.intent_weights, *self._people):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def utterances(self, person: int) -> list[Utterance]:
        """Everything a person says, in words and in its own order.

        Args:
          person: a device, or from `devices` on somebody who never trains.

        Returns:
          Rows whose `order` is the moment in millionths of the corpus's time.

        Example:
          >>> source = HomeSource(devices=20, seed=0, vocabulary=HashedVocabulary())
          >>> said = source.utterances(0)[0]
          >>> said.intent, said.split, " ".join(said.tokens)
          ('play_audiobook', 'train', 'continue the silver thread thanks')
          >>> said.slots
          ('O', 'B-audiobook', 'I-audiobook', 'I-audiobook', 'O')
        """
        table, labels = grammar(), grammar().inventory
        alone, said = self._alone(person), self._said(person)
        position = np.arange(len(said.intents))
        splits, moments = alone.split(position), alone.clock(position, 1_000_000)
        rows = []
        for j in position:
            words = [
                w for p in said.phrases[j] for w in range(table.starts[p], table.starts[p + 1])
            ]
            rows.append(
                Utterance(
                    tokens=tuple(table.words[w] for w in words),
                    slots=tuple(labels.slot_labels[table.slots[w]] for w in words),
                    intent=labels.intents[said.intents[j]],
                    user=f"home-{person}",
                    split=SPLITS[splits[j]],
                    order=int(moments[j]),
                )
            )
        return rows

    @cached_property
    def _people(self) -> "People":
        """Everybody: the devices, then those who never train, 5 % of all."""
        unseen = round(self.devices * 5 / 95)
        parts = meet(self.seed, "home", self.devices), meet(self.seed, "home/unseen", unseen)
        size, phase, start, stop = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        return People(size, phase, start, stop, np.arange(len(size)) < self.devices)

    @cached_property
    def _rows(self) -> np.ndarray:
        """Vocabulary rows of the grammar's words, shape (words, pieces) int32."""
        return self.vocabulary.encode(grammar().words)

    @cached_property
    def _dev(self) -> "_Sample":
        held = self._people.held_out(1)
        return self._sample(fill(held, HELD_OUT_CAP, stream(self.seed, "home/dev")), 1)

    @cached_property
    def _test(self) -> "_Sample":
        held, trains = self._people.held_out(2), self._people.trains
        random = stream(self.seed, "home/test")
        room = max(HELD_OUT_CAP // 5, HELD_OUT_CAP - int(held[trains].sum()))
        unseen = fill(np.where(trains, 0, held), room, random)
        seen = fill(np.where(trains, held, 0), HELD_OUT_CAP - int(unseen.sum()), random)
        return self._sample(seen + unseen, 2)

    def _sample(self, taken: np.ndarray, split: int) -> "_Sample":
        """`taken[p]` of the examples of each person p in a split, spread over its history."""
        people = np.flatnonzero(taken)
        said = [Said(grammar().first_way[:0], grammar().pieces[:0])]
        positions = [people[:0]]
        for person in people.tolist():
            position = self._alone(person).positions(split)
            middle = 2 * np.arange(taken[person]) + 1
            position = position[middle * len(position) // (2 * taken[person])]
            said.append(self._said(person).at(position))
            positions.append(position)
        owner = np.repeat(people, taken[people])
        device = np.where(owner < self.devices, owner, UNSEEN)
        everything = Said(*(np.concatenate(arrays) for arrays in zip(*said, strict=True)))
        return self._encode(everything, device), owner, np.concatenate(positions)

    def _train(self, device: int) -> tuple[Examples, np.ndarray]:
        """A device's training examples and their positions in its history."""
        position = self._alone(device).positions(0)
        said = self._said(device).at(position)
        return self._encode(said, np.full(len(position), device)), position

    def _alone(self, person: int) -> "People":
        return self._people.at(slice(person, person + 1))

    def _said(self, person: int) -> Said:
        """What a person says, as phrases of the grammar."""
        if person < self.devices:
            speech = stream(self.seed, "home/speech", device=person)
        else:
            speech = stream(self.seed, "home/unseen/speech", device=person - self.devices)
        alone = self._alone(person)
        return speak(alone.clock(np.arange(alone.size[0]), STEPS), speech)

    def _encode(self, said: Said, device: np.ndarray) -> Examples:
        """Phrases as rows of the vocabulary; `device` is (examples,). Periods are all 0."""
        starts = grammar().starts
        phrases = said.phrases.ravel()
        lengths = starts[phrases + 1] - starts[phrases]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        words = np.arange(ends[-1]) + np.repeat(starts[phrases] - ends[:-1], lengths)
        count = len(said.intents)
        return Examples(
            token_ids=self._rows[words],
            slots=grammar().slots[words],
            offsets=ends[:: said.phrases.shape[1]],
            intents=said.intents.astype(np.int16),
            device=device.astype(np.int32),
            period=np.zeros(count, np.int16),
            null=np.zeros(count, bool),
        )


_Sample = tuple[Examples, np.ndarray, np.ndarray]
"""Held-out examples, who said each, and where in that person's history."""


class _Cache:
    """The devices last asked for, up to CACHED_UTTERANCES utterances; safe across threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: OrderedDict[int, tuple[Examples, np.ndarray]] = OrderedDict()
        self._utterances = 0

    def __reduce__(self) -> tuple[type["_Cache"], tuple[()]]:
        """A copy starts empty: locks cannot be copied, and contents can be made again."""
        return _Cache, ()

    def get(
        self, device: int, make: Callable[[int], tuple[Examples, np.ndarray]]
    ) -> tuple[Examples, np.ndarray]:
        """What is held of a device, or `make(device)`, which is then held."""
        with self._lock:
            if device in self._held:
                self._held.move_to_end(device)
                return self._held[device]
        made = make(device)
        with self._lock:
            if device not in self._held:
                self._held[device] = made
                self._utterances += len(made[0])
            while self._utterances > CACHED_UTTERANCES:
                self._utterances -= len(self._held.popitem(last=False)[1][0])
        return made
