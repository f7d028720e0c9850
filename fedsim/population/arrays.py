"""A corpus held as flat arrays, sorted by person.

Utterances are encoded once; a device is a slice of the arrays, a period a run inside the slice.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedsim.errors import require
from fedsim.population.examples import MAX_TOKENS, UNKNOWN, UNSEEN, Examples, Utterance
from fedsim.population.labels import Inventory
from fedsim.population.periods import By, cut_evenly
from fedsim.population.vocabulary import Vocabulary

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Flat arrays of a corpus. Rows of a person are contiguous, in order of collection.

    Attributes:
      examples: every utterance; `device` is negative where nobody trains.
      person: (n,) int64, 0 .. people - 1, or -1 where nobody is known.
      split: (n,) int8 index into SPLITS.
      order: (n,) int64 rank in the order of collection.
      device_names: what the corpus calls each device.
      cut_tokens: utterances that were longer than MAX_TOKENS.
    """

    examples: Examples
    person: np.ndarray
    split: np.ndarray
    order: np.ndarray
    device_names: tuple[str, ...]
    cut_tokens: int = 0
    _cuts: dict = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def build(
        cls, utterances: Iterable[Utterance], inventory: Inventory, vocabulary: Vocabulary
    ) -> "ArraySource":
        """Encode utterances. Devices are the people with training rows, in order of first row."""
        rows = list(utterances)
        order = np.argsort(np.array([row.order for row in rows], dtype=np.int64), kind="stable")
        rank = np.empty(len(rows), np.int64)
        rank[order] = np.arange(len(rows))
        people: dict[str, int] = {}
        for i in order.tolist():
            if (user := rows[i].user) is not None:
                people.setdefault(user, len(people))
        person = np.array([-1 if r.user is None else people[r.user] for r in rows], np.int64)
        split = np.array([SPLITS.index(row.split) for row in rows], np.int8)
        # Unknown people last, so that known ones are numbered by their first row.
        sort = np.lexsort((rank, np.where(person < 0, len(people), person)))
        rows, person = [rows[i] for i in sort], person[sort]
        split, rank = split[sort], rank[sort]

        trains = np.zeros(len(people), bool)
        trains[person[(split == 0) & (person >= 0)]] = True
        device_of = np.where(trains, np.cumsum(trains) - 1, UNSEEN)
        device = np.where(person >= 0, device_of[person] if len(people) else UNKNOWN, UNKNOWN)
        require(bool(trains.any()), "no training row has a user, so there is no device to train")
        # Training rows nobody is known for train nowhere.
        used = (split != 0) | (device >= 0)
        rows = [row for row, use in zip(rows, used, strict=True) if use]

        lengths = np.array([min(len(row.tokens), MAX_TOKENS) for row in rows], np.int64)
        # Every distinct word is encoded once.
        words: dict[str, int] = {}
        tokens = (words.setdefault(t, len(words)) for row in rows for t in row.tokens[:MAX_TOKENS])
        word = np.fromiter(tokens, np.int64, lengths.sum())
        slot_ids = inventory.slot_ids
        labels = (slot_ids[label] for row in rows for label in row.slots[:MAX_TOKENS])
        count = len(rows)
        return cls(
            examples=Examples(
                token_ids=vocabulary.encode(list(words))[word],
                slots=np.fromiter(labels, np.int16, len(word)),
                offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                intents=np.array([inventory.intent_ids[row.intent] for row in rows], np.int16),
                device=device[used].astype(np.int32),
                period=np.zeros(count, np.int16),
                null=np.zeros(count, bool),
            ),
            person=person[used],
            split=split[used],
            order=rank[used],
            device_names=tuple(name for name, train in zip(people, trains, strict=True) if train),
            cut_tokens=sum(len(row.tokens) > MAX_TOKENS for row in rows),
        )

    @property
    def devices(self) -> int:
        """People with training rows."""
        return len(self.device_names)

    def names(self) -> Sequence[str]:
        """User ids of the corpus."""
        return self.device_names

    def counts(self, periods: int, by: By) -> np.ndarray:
        """Training examples, shape (devices, periods)."""
        train, _, _ = self._train(periods, by)
        flat = train.device.astype(np.int64) * periods + train.period
        return np.bincount(flat, minlength=self.devices * periods).reshape(self.devices, periods)

    def train(self, device: int, periods: int, by: By) -> Examples:
        """A device's training examples in order of collection."""
        train, starts, stops = self._train(periods, by)
        return train.slice(int(starts[device]), int(stops[device]))

    def held_out(self, split: str, periods: int, by: By) -> Examples:
        """The rows of "dev" or "test"; rows of nobody known have period -1 under "device"."""
        rows = np.flatnonzero(self.split == SPLITS.index(split))
        return self.examples.with_(period=self._periods(periods, by)).take(rows)

    def fingerprint(self) -> str:
        """SHA-256 of all arrays and names."""
        digest = hashlib.sha256()
        e = self.examples
        for array in (e.token_ids, e.slots, e.offsets, e.intents, self.person, self.split):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(self.order.tobytes())
        digest.update("\n".join(self.device_names).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _periods(self, periods: int, by: By) -> np.ndarray:
        """Period of every row, from all rows of its person (or of the collection)."""
        if by == "clock":
            period = cut_evenly(self.order, int(self.order.max()) + 1, periods)
        else:
            known = self.person >= 0
            sizes = np.bincount(self.person[known])
            first = np.concatenate([[0], np.cumsum(sizes)])
            position = np.arange(len(self.person)) - np.where(known, first[self.person], 0)
            period = cut_evenly(position, np.where(known, sizes[self.person], 1), periods)
            period[~known] = -1
        return period

    def _train(self, periods: int, by: By) -> tuple[Examples, np.ndarray, np.ndarray]:
        """Training rows with their periods, and where each device starts and stops; cached."""
        if (periods, by) not in self._cuts:
            self._cuts[periods, by] = self._cut(periods, by)
        return self._cuts[periods, by]

    def _cut(self, periods: int, by: By) -> tuple[Examples, np.ndarray, np.ndarray]:
        rows = np.flatnonzero(self.split == 0)
        train = self.examples.with_(period=self._periods(periods, by)).take(rows)
        devices = np.arange(self.devices)
        return (
            train,
            np.searchsorted(train.device, devices, side="left"),
            np.searchsorted(train.device, devices, side="right"),
        )
