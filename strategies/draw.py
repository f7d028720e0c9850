"""Which devices take part in a round, given how likely each is to?"""

import numpy as np

from fedsim.plan import Draw
from fedsim.rng import stream

IN_A_BIN = 16
"""Devices that share a bin of a fixed-size draw, on average."""


def draw_cohort(rates: np.ndarray, draw: Draw, seed: int, round: int) -> np.ndarray:
    """Device ids of one round, increasing; a pure function of its arguments.

    "poisson": independent coins, so a cohort of none is an ordinary outcome. "fixed": systematic
    sampling in random order (Madow 1949): the cohort's size is the sum of the rates (or one of the
    two integers around it), and each device's inclusion probability is exactly its rate, which
    drawing one by one without replacement would not give.

    Args:
      rates: (devices,) in [0, 1].
      draw: "poisson" or "fixed".
      seed: the run's.
      round: from 1.
    """
    random = stream(seed, "cohort", round)
    if draw == "poisson":
        return np.flatnonzero(random.random(len(rates)) < rates)
    return _systematic(rates, random)


def _systematic(rates: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Devices laid end to end in random order, each as long as its rate: who lies at the marks.

    Marks are 1 apart, the first of them uniform in (0, 1]. To put a million devices into an order
    costs more than all else in a draw, so they are thrown into bins, and only the bins that a mark
    falls into are put in order within.
    """
    candidates = np.flatnonzero(rates)
    lengths, bins = rates[candidates], len(candidates) // IN_A_BIN + 1
    bin = random.integers(bins, size=len(candidates), dtype=np.uint32)
    sums = np.bincount(bin, lengths, minlength=bins)
    ends, first = np.cumsum(sums), 1 - random.random()
    # Rounding keeps sums that are whole numbers whole, so that the size does not wobble.
    marks = first + np.arange(np.floor(round(ends[-1], 9) - first) + 1)
    hit = np.minimum(np.searchsorted(ends, marks), bins - 1)
    opened = np.zeros(bins, bool)
    opened[hit] = True
    inside = random.permutation(np.flatnonzero(opened[bin]))
    inside = inside[np.argsort(bin[inside], kind="stable")]
    # The bins that stay closed are taken out from between the others.
    marks -= np.cumsum(np.where(opened, 0.0, sums))[hit]
    at = np.searchsorted(np.cumsum(lengths[inside]), marks)
    return np.sort(candidates[inside[np.minimum(at, len(inside) - 1)]])
