"""What was promised before training about how often and how an audit looks?

An audit that may look at ten rounds, at four numbers of guesses and at four groups has 160 chances
to be wrong, so each look gets 1/160 of the level (Bonferroni). Everything here is fixed before
training; nothing of it may depend on a score.

The delta term of the one-run bound does not shrink with the level, so that at the delta of a claim
a corrected audit often says nothing. An audit has a delta of its own: the largest power of ten with
2 m delta <= (corrected level) / 100. It is compared with the ledger's epsilon at that same delta.
"""

import math
from dataclasses import dataclass

import numpy as np

from fedsim.errors import require
from fedsim.leakage.one_run import correct_guesses, one_run_bound

MOST_ROUNDS = 10
"""Rounds that are audited at most."""

GUESSES = (0.1, 0.2, 0.4, 0.8)
"""Numbers of guesses, as shares of the canaries: from a few sure ones to nearly all. With 500
canaries and a level of 3e-4 their best bound is within 8 % of the best of ten shares, for Gaussian
scores with mu from 0.5 to 5 (means over 20 seeds)."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Which looks an audit takes, and what each may cost.

    Attributes:
      rounds: rounds looked at, from 1.
      groups: sets of canaries looked at, the whole panel included.
      attacks: attacks looked at.
      level: probability that any of all the bounds is wrong.

    Example:
      >>> audit = Audit(rounds=audited_rounds(200), groups=4)
      >>> audit.rounds, audit.looks, audit.delta(500)
      ((1, 23, 45, 67, 89, 112, 134, 156, 178, 200), 160, 1e-09)
    """

    rounds: tuple[int, ...]
    groups: int = 1
    attacks: int = 1
    level: float = 0.05

    def __post_init__(self) -> None:
        require(0 < self.level < 1, f"level is {self.level}; choose a probability in (0, 1)")
        looks = (len(self.rounds), self.groups, self.attacks)
        require(min(looks) >= 1, f"rounds, groups and attacks are {looks}; choose 1 or more each")

    @property
    def looks(self) -> int:
        """Rounds x attacks x numbers of guesses x groups."""
        return len(self.rounds) * self.attacks * len(GUESSES) * self.groups

    @property
    def level_each(self) -> float:
        """The level of one look."""
        return self.level / self.looks

    def delta(self, canaries: int) -> float:
        """The largest power of ten with 2 x canaries x delta <= level of one look / 100."""
        return 10.0 ** math.floor(math.log10(self.level_each / (200 * canaries)) + 1e-9)

    def bound(self, scores: np.ndarray, member: np.ndarray, delta: float) -> float:
        """The best lower bound on epsilon over the numbers of guesses; 0 where there is none.

        Args:
          scores: (m,) of one attack, one round and one group.
          member: (m,) bool, how the coins fell.
          delta: of the audit. That of the whole panel serves its groups too.
        """
        canaries = len(scores)
        counts = [round(share * canaries) for share in GUESSES]
        return max(
            one_run_bound(
                correct=correct_guesses(scores, member, guesses),
                guesses=guesses,
                canaries=canaries,
                delta=delta,
                level=self.level_each,
            )
            for guesses in counts
        )


def audited_rounds(rounds: int) -> tuple[int, ...]:
    """At most `MOST_ROUNDS` rounds, evenly spread, the first and the last among them."""
    spread = np.linspace(1, rounds, min(rounds, MOST_ROUNDS))
    return tuple(int(k) for k in np.unique(np.round(spread)))
