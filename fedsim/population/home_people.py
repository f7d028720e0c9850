"""How much each person of the built-in corpus says, when, and what of it is held out.

Everything is whole numbers, in closed form: counts of a million people are a few array operations
and agree exactly with the utterances that are generated later, one person at a time.
"""

from typing import NamedTuple

import numpy as np

from fedsim.population.periods import By, cut_evenly
from fedsim.rng import stream

MEDIAN_ACTIVITY, ACTIVITY_SIGMA, MOST_ACTIVE = 9, 1.5, 5_000
"""Utterances a person: log-normal with this median and spread, from 1 to this many."""

TICKS = 1_000
"""Units of the corpus's time; whole numbers, so that counts and contents cannot disagree."""


class People(NamedTuple):
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

    def at(self, index: np.ndarray | slice) -> "People":
        """The people at `index`."""
        return People(*(array[index] for array in self))

    def split(self, position: np.ndarray) -> np.ndarray:
        """0 (train), 1 (dev) or 2 (test) of one utterance a person."""
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


def meet(seed: int, who: str, count: int) -> tuple[np.ndarray, ...]:
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


def fill(held: np.ndarray, room: int, random: np.random.Generator) -> np.ndarray:
    """How many of `held` (people,) to take when people come in random order until room is full."""
    order = random.permutation(len(held))
    before = np.cumsum(held[order]) - held[order]
    taken = np.empty_like(held)
    taken[order] = np.clip(room - before, 0, held[order])
    return taken
