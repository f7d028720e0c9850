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
from typing import NamedTuple, overload

import numpy as np

from fedsim.errors import require
from fedsim.population.examples import UNSEEN, Examples, Utterance
from fedsim.population.home_grammar import STEPS, Said, grammar, speak
from fedsim.population.periods import By, cut_evenly
from fedsim.population.population import Population
from fedsim.population.vocabulary import HashedVocabulary, Vocabulary
from fedsim.rng import stream

VERSION = 1
"""Changes whenever the same (seed, person) would say something else."""

HELD_OUT_CAP = 5_000
"""Most utterances of dev, and of test; a fifth of test is reserved for people who never train."""

CACHED_UTTERANCES = 200_000
"""Utterances kept in memory once they were generated."""

MEDIAN_ACTIVITY, ACTIVITY_SIGMA, MOST_ACTIVE = 9, 1.5, 5_000
"""Utterances a person: log-normal with this median and spread, from 1 to this many."""

TICKS = 1_000
"""Units of the corpus's time; whole numbers, so that counts and contents cannot disagree."""

SPLITS = ("train", "dev", "test")


def home(devices: int = 1000, seed: int = 0, vocabulary: Vocabulary | None = None) -> Population:
    """The built-in corpus: utterances to a smart home, with personas, heavy tails and drift.

    Args:
      devices: people who train, at least 1; another 5 % of all people are only in test.
      seed: names the corpus; another seed is other people.
      vocabulary: words to embedding rows; default `HashedVocabulary()`.

    Raises:
      ConfigError: no devices.

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
      devices: people who train, at least 1.
      seed: names the corpus.
      vocabulary: words to embedding rows.

    Raises:
      ConfigError: no devices.
    """

    devices: int
    seed: int
    vocabulary: Vocabulary
    _cache: "_Cache" = field(init=False, repr=False, default_factory=lambda: _Cache())

    def __post_init__(self) -> None:
        require(self.devices >= 1, f"devices is {self.devices}; choose 1 or more")

    def names(self) -> Sequence[str]:
        """home-0, home-1, ...; each made when it is asked for."""
        return _Names(self.devices)

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
    def _people(self) -> "_People":
        """Everybody: the devices, then those who never train, 5 % of all."""
        unseen = round(self.devices * 5 / 95)
        parts = _meet(self.seed, "home", self.devices), _meet(self.seed, "home/unseen", unseen)
        size, phase, start, stop = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        return _People(size, phase, start, stop, np.arange(len(size)) < self.devices)

    @cached_property
    def _rows(self) -> np.ndarray:
        """Vocabulary rows of the grammar's words, shape (words, pieces) int32."""
        return self.vocabulary.encode(grammar().words)

    @cached_property
    def _dev(self) -> "_Sample":
        held = self._people.held_out(1)
        return self._sample(_fill(held, HELD_OUT_CAP, stream(self.seed, "home/dev")), 1)

    @cached_property
    def _test(self) -> "_Sample":
        held, trains = self._people.held_out(2), self._people.trains
        random = stream(self.seed, "home/test")
        room = max(HELD_OUT_CAP // 5, HELD_OUT_CAP - int(held[trains].sum()))
        unseen = _fill(np.where(trains, 0, held), room, random)
        seen = _fill(np.where(trains, held, 0), HELD_OUT_CAP - int(unseen.sum()), random)
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

    def _alone(self, person: int) -> "_People":
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


class _People(NamedTuple):
    """When people speak; all arrays (people,), int64 unless said. Row i may be of any person.

    Utterance j of `size` is said at tick start + (stop - start)(j + 1/2) / size. It is in dev
    where (j + phase) mod 10 is 4 and in test where it is 9, so that any stretch of a history holds
    about 80/10/10; everything is in test where `trains` (bool) is false.
    """

    size: np.ndarray
    phase: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    trains: np.ndarray

    def at(self, index: np.ndarray | slice) -> "_People":
        """The people at `index`."""
        return _People(*(array[index] for array in self))

    def split(self, position: np.ndarray) -> np.ndarray:
        """Index into SPLITS of one utterance a person."""
        turn = (position + self.phase) % 10
        return np.where(self.trains, np.where(turn == 9, 2, turn == 4), 2)

    def positions(self, split: int) -> np.ndarray:
        """Where in the history of one person the utterances of a split stand."""
        return np.flatnonzero(self.split(np.arange(self.size[0])) == split)

    def clock(self, position: np.ndarray, parts: int) -> np.ndarray:
        """In which of `parts` equal parts of all time one utterance a person is said."""
        tick = 2 * self.size * self.start + (self.stop - self.start) * (2 * position + 1)
        return tick * parts // (2 * self.size * TICKS)

    def period(self, position: np.ndarray, periods: int, by: By) -> np.ndarray:
        """Period of one utterance a person, int16."""
        if by == "device":
            return cut_evenly(position, self.size, periods)
        return self.clock(position, periods).astype(np.int16)

    def edges(self, periods: int, by: By) -> np.ndarray:
        """First position of each period and the size, shape (people, periods + 1)."""
        size, start, stop = self.size[:, None], self.start[:, None], self.stop[:, None]
        period = np.arange(periods + 1)
        if by == "device":
            return -(-period * size // periods)
        # The least j whose clock(j, periods) >= period.
        active = periods * (stop - start)
        first = -((active - 2 * size * (period * TICKS - periods * start)) // (2 * active))
        return np.clip(first, 0, size)

    def trained(self, edges: np.ndarray) -> np.ndarray:
        """Training utterances before each position in `edges`, of people who train."""
        # Held out are those with (j + phase) mod 5 = 4.
        phase = self.phase[:, None]
        return edges - (edges + phase) // 5 + phase // 5

    def held_out(self, split: int) -> np.ndarray:
        """Utterances in dev (1) or test (2), shape (people,)."""
        shift = self.phase + (5 if split == 1 else 0)
        held = (self.size + shift) // 10 - shift // 10
        return np.where(self.trains, held, self.size if split == 2 else 0)


def _meet(seed: int, who: str, count: int) -> tuple[np.ndarray, ...]:
    """Size, phase, start and stop of `count` people; the first are the same for any count."""
    activity = stream(seed, f"{who}/activity").lognormal(
        np.log(MEDIAN_ACTIVITY), ACTIVITY_SIGMA, count
    )
    size = np.clip(np.rint(activity), 1, MOST_ACTIVE).astype(np.int64)
    phase, habit, moment = stream(seed, f"{who}/clock").random((count, 3)).T
    phase = (phase * 10).astype(np.int64)
    # Whoever says one thing trains on it.
    phase -= (size == 1) & (phase % 5 == 4)
    # Most are there all the time; some arrive late, some leave early.
    start = np.where(habit < 0.15, np.floor(moment * 0.8 * TICKS), 0).astype(np.int64)
    stop = np.where(habit > 0.85, np.ceil((0.2 + 0.8 * moment) * TICKS), TICKS).astype(np.int64)
    return size, phase, start, stop


def _fill(held: np.ndarray, room: int, random: np.random.Generator) -> np.ndarray:
    """How many of `held` (people,) to take when people come in random order until room is full."""
    order = random.permutation(len(held))
    before = np.cumsum(held[order]) - held[order]
    taken = np.empty_like(held)
    taken[order] = np.clip(room - before, 0, held[order])
    return taken


class _Names(Sequence[str]):
    """home-0, home-1, ... without holding them."""

    def __init__(self, count: int) -> None:
        self._range = range(count)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [f"home-{i}" for i in self._range[index]]
        return f"home-{self._range[index]}"


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
