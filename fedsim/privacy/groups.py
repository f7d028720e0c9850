"""Which of many histories costs most, and which lies in the middle, without pricing them all?

Devices with the same history form a group. Every group's Renyi bound is cheap. The exact epsilon is
computed for groups in the order of their bounds until no other bound exceeds the best value found:
epsilon never exceeds its bound, so the rest cannot be the maximum. A group none of whose steps is
likelier, less noisy or more frequent than those of a group already priced is skipped as well. Where
too many near-equal histories are left, a made-up history that costs at least as much as any of a
set stands for the set, and the dearest set is split until the work allowed is done: an upper bound,
which near-equal histories make a tight one.

The median, or any rank, is bounded from above: take that many devices, those with the smallest
bounds. Their largest exact epsilon is at least the one of that rank, and equals it where the bounds
order devices as the exact values do.
"""

from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from fedsim.privacy.accounting import history_epsilon
from fedsim.privacy.loss import Step
from fedsim.privacy.renyi import ORDERS, divergences, to_epsilon
from fedsim.privacy.step_loss import Relation

MOST_PRICED = 64
"""Histories priced one by one for a figure at most, and sets of histories after that."""


class Worst(NamedTuple):
    """The largest epsilon of some groups.

    Attributes:
      epsilon: exact, or an upper bound.
      group: whose it is.
      exact: whether every group that could exceed it was priced.
    """

    epsilon: float
    group: int
    exact: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Distinct histories, a row each. Composition commutes, so the order of columns means nothing.

    Attributes:
      rates: (groups, columns) participation rates; 0 where a column is empty.
      noises: (groups, columns) effective noises, > 0.
      times: (groups, columns) how many such steps.
      members: (groups,) devices that share the history.
    """

    rates: np.ndarray
    noises: np.ndarray
    times: np.ndarray
    members: np.ndarray

    def bounds(self, delta: float, relation: Relation = "zero-out") -> np.ndarray:
        """Renyi upper bound on every group's epsilon, shape (groups,)."""
        kinds, kind = unique_pairs(self.rates, self.noises)
        rows_of = [divergences(q, s, relation) for q, s in kinds]
        table = np.array(rows_of).reshape(len(kinds), len(ORDERS))
        epsilons = np.empty(len(self.members))
        for start in range(0, len(epsilons), 1 << 16):
            rows = slice(start, start + (1 << 16))
            total = np.zeros((len(epsilons[rows]), len(ORDERS)))
            for column in range(kind.shape[1]):
                total += self.times[rows, column, None] * table[kind[rows, column]]
            epsilons[rows] = to_epsilon(total, delta)
        return epsilons

    def history(self, group: int) -> tuple[Step, ...]:
        """A group's steps in canonical form."""
        counts: dict[tuple[float, float], int] = {}
        for q, s, n in zip(
            *(each[group].tolist() for each in (self.rates, self.noises, self.times)), strict=True
        ):
            if q > 0 and n > 0:
                counts[(q, s)] = counts.get((q, s), 0) + n
        return tuple(sorted((q, s, n) for (q, s), n in counts.items()))

    def epsilon(self, group: int, delta: float, relation: Relation = "zero-out") -> float:
        """A group's exact epsilon."""
        return history_epsilon(self.history(group), delta, relation)

    def worst(
        self,
        bounds: np.ndarray,
        delta: float,
        among: np.ndarray,
        relation: Relation = "zero-out",
    ) -> Worst:
        """The largest exact epsilon.

        Args:
          bounds: (groups,) from `bounds` at the same delta and relation.
          delta: in (0, 1).
          among: groups to look at, at least one.
          relation: what neighbours differ in.
        """
        left = among[np.argsort(-bounds[among], kind="stable")]
        best = Worst(-1.0, -1, True)
        for _ in range(MOST_PRICED):
            top = int(left[0])
            found = self.epsilon(top, delta, relation)
            if found > best.epsilon:
                best = Worst(found, top, True)
            left = left[1:][bounds[left[1:]] > best.epsilon]
            left = left[~self._within(left, top)]
            if len(left) == 0:
                return best
        rest = self._covered(left, bounds, delta, relation)
        return best if best.epsilon >= rest.epsilon else rest

    def ranked(self, bounds: np.ndarray, delta: float, rank: int) -> Worst:
        """The rank-th smallest epsilon over devices (from 1), from above."""
        order = np.argsort(bounds, kind="stable")
        last = int(np.searchsorted(np.cumsum(self.members[order]), rank))
        return self.worst(bounds, delta, order[: last + 1])

    def with_noise(self, factor: float) -> "Groups":
        """The same histories under noise that is so many times larger."""
        return replace(self, noises=self.noises * factor)

    def _covered(
        self, groups: np.ndarray, bounds: np.ndarray, delta: float, relation: Relation
    ) -> Worst:
        """A bound on the exact epsilons of some groups, and one of those that may reach it.

        Args:
          groups: one or more.
          bounds: (groups,) Renyi bounds of all, at this delta and relation.
          delta: in (0, 1).
          relation: what neighbours differ in.
        """

        def entry(part: np.ndarray) -> tuple[float, int, np.ndarray]:
            cover = replace(
                self,
                rates=self.rates[part].max(axis=0, keepdims=True),
                noises=self.noises[part].min(axis=0, keepdims=True),
                times=self.times[part].max(axis=0, keepdims=True),
                members=np.ones(1, np.int64),
            )
            most = min(cover.epsilon(0, delta, relation), float(bounds[part].max()))
            # The second number only breaks ties.
            return -most, int(part[0]), part

        open_sets = [entry(groups)]
        for _ in range(MOST_PRICED // 2):
            negative, first, part = heappop(open_sets)
            if len(part) == 1:
                return Worst(-negative, first, True)
            # By the column in which the set differs most, as a factor.
            spread = [
                np.log(np.clip(each[part], tiny, most)).std(axis=0)
                for each, tiny, most in (
                    (self.rates, 1e-9, 1.0),
                    (self.noises, 1e-9, 1e9),
                    (self.times, 0.5, np.inf),
                )
            ]
            which, column = np.unravel_index(np.argmax(spread), (3, self.rates.shape[1]))
            key = (self.rates, self.noises, self.times)[which][part, column]
            order = part[np.argsort(key, kind="stable")]
            for half in (order[: len(order) // 2], order[len(order) // 2 :]):
                heappush(open_sets, entry(half))
        negative, first, part = open_sets[0]
        return Worst(-negative, first, len(part) == 1)

    def _within(self, groups: np.ndarray, other: int) -> np.ndarray:
        """Which groups certainly cost no more than another."""
        fewer = self.times[groups] <= self.times[other]
        rarer = self.rates[groups] <= self.rates[other]
        noisier = self.noises[groups] >= self.noises[other]
        empty = (self.times[groups] == 0) | (self.rates[groups] == 0)
        return (empty | (fewer & rarer & noisier)).all(axis=1)


def unique_pairs(first: np.ndarray, second: np.ndarray) -> tuple[list[tuple], np.ndarray]:
    """Distinct pairs of two arrays of one shape, and which of them stands at each place.

    Example:
      >>> unique_pairs(np.array([1, 1, 2]), np.array([5, 5, 4]))
      ([(1, 5), (2, 4)], array([0, 0, 1]))
    """
    firsts, i = np.unique(first, return_inverse=True)
    seconds, j = np.unique(second, return_inverse=True)
    codes, pair = np.unique(i * len(seconds) + j, return_inverse=True)
    pairs = zip(
        firsts[codes // len(seconds)].tolist(), seconds[codes % len(seconds)].tolist(), strict=True
    )
    return list(pairs), pair.reshape(first.shape)
