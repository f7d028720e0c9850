"""How is the privacy loss of many composed steps distributed, and what epsilon does that give?

The loss of a step (`fedsim.privacy.step_loss`) is a random number; independent steps add theirs;
and

    delta(epsilon) = E[max(0, 1 - e^(epsilon - loss))].

An attacker faces one direction for the whole run, A against B or B against A, so each is composed
over all steps and the worse delta counts. Sums of losses are powers and products of Fourier
transforms (Koskela et al., AISTATS 2020, https://arxiv.org/abs/1906.03049). What the finite window
cannot hold, at most TAIL by Chernoff's bound, counts as an infinite loss.

dp-accounting computes the same one grid point at a time; a ledger of thousands of devices needs it
vectorised. The tests hold every number here to dp-accounting's. (Sums are not written as `@`, which
wakes the threads of BLAS.)
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from fedsim.privacy.step_loss import Direction, Relation, StepLoss, span, step_loss, variance

GRID = 0.08
"""Grid spacing over the root mean square of the steps' standard deviations of loss. Connecting dots
adds about a sixth of a squared spacing to each step's variance, a thousandth of it at most. Over
the tests' reference values epsilon is then at most 0.04 % above that of a grid 8 times finer."""

MOST_POINTS = 2**18
"""Grid points of one step. Rare steps under little noise would want more: their losses reach far
beyond their standard deviation. Epsilon is then still an upper bound, of a small number."""

LEAST_RATE = 1e-9
"""Smaller rates count as this one, since floats do not hold their losses."""

NEGLIGIBLE_NOISE = 1e-6
"""Steps under less effective noise count as steps without any: their losses, of the size of
1 / noise squared, leave no privacy to speak of, and in the end no room in a float."""

TAIL = 1e-15
"""Probability that composed losses leave the window of the transform."""


class Composition(NamedTuple):
    """Distribution of a composed loss.

    Attributes:
      losses: (points,) increasing, evenly spaced.
      mass: (points,) probabilities.
      infinite: probability of an infinite loss.
    """

    losses: np.ndarray
    mass: np.ndarray
    infinite: float

    def delta(self, epsilon: float) -> float:
        """Smallest delta at an epsilon."""
        first = int(np.searchsorted(self.losses, epsilon, side="right"))
        gain = -np.expm1(epsilon - self.losses[first:])
        return self.infinite + float((gain * self.mass[first:]).sum())

    def epsilon(self, delta: float) -> float:
        """Smallest epsilon >= 0 at a delta; infinite where no epsilon reaches it."""
        if self.infinite >= delta:
            return math.inf
        if self.delta(0.0) <= delta:
            return 0.0
        low, high = int(np.searchsorted(self.losses, 0.0, side="right")) - 1, len(self.losses) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.delta(float(self.losses[middle])) > delta:
                low = middle
            else:
                high = middle
        # Between two grid points delta is known in closed form: probability minus e^epsilon x rest.
        anchor = float(self.losses[high])
        mass = self.mass[high:]
        rest = float((np.exp(anchor - self.losses[high:]) * mass).sum())
        return max(0.0, anchor + math.log((float(mass.sum()) + self.infinite - delta) / rest))


Step = tuple[float, float, int]
"""Rate in (0, 1], effective noise > 0, how many times."""


def compose(
    steps: tuple[Step, ...], relation: Relation, direction: Direction, grid: float = GRID
) -> Composition:
    """The loss of independent steps, summed.

    Args:
      steps: at least one.
      relation: what neighbours differ in.
      direction: "forward" is A against B.
      grid: spacing as in `GRID`; any value gives an upper bound, a smaller one a tighter bound.
    """
    steps = tuple((max(q, LEAST_RATE), s, n) for q, s, n in steps)
    total = sum(count for _, _, count in steps)
    spread = sum(n * variance(q, s, relation) for q, s, n in steps)
    wanted = grid * math.sqrt(spread / total)
    least = max(span(q, s, relation) for q, s, _ in steps) / MOST_POINTS
    spacing = 2.0 ** math.floor(math.log2(max(wanted, least)))
    steps_on_grid = [(step_loss(q, s, relation, direction, spacing), n) for q, s, n in steps]
    low, high = _window(steps_on_grid, spacing, math.sqrt(spread))
    points = next_fast_len(high - low + 1, real=True)
    spectrum = np.ones(points // 2 + 1, dtype=np.complex128)
    for step, count in steps_on_grid:
        spectrum *= _power(rfft(_folded(step.mass, points)), count)
    # Position p of the transform holds the losses start + p, start + p +- points, ...
    start = sum(count * step.start for step, count in steps_on_grid)
    mass = np.roll(irfft(spectrum, points), (start - low) % points)
    infinite = TAIL + sum(count * step.infinite for step, count in steps_on_grid)
    losses = spacing * np.arange(low, low + points)
    return Composition(losses, np.maximum(mass, 0.0), min(1.0, infinite))


def _window(grids: list[tuple[StepLoss, int]], spacing: float, deviation: float) -> tuple[int, int]:
    """Grid indices that the summed loss leaves, on either side, with probability at most TAIL."""
    low = sum(n * grid.start for grid, n in grids)
    high = sum(n * (grid.start + len(grid.mass) - 1) for grid, n in grids)
    # Rare steps have tails far beyond their deviation, which rates around 1 bound best, or, where
    # there is little noise as well, rates around one over the largest loss.
    longest = spacing * max(len(grid.mass) for grid, _ in grids)
    first = math.floor(-math.log2(deviation)) - 3
    lowest = min(first, -1, math.floor(-math.log2(longest)))
    for sign in (1.0, -1.0):
        before = math.inf
        for power in range(lowest, first + 9):
            rate = sign * 2.0**power
            growth = sum(n * grid.log_moment(rate) for grid, n in grids)
            bound = (growth - math.log(TAIL)) / (rate * spacing)
            if sign > 0:
                high = min(high, math.ceil(bound))
            else:
                low = max(low, math.floor(bound))
            # growth is convex in the rate, so that past its best the bound only gets worse.
            if sign * bound > before:
                break
            before = sign * bound
    return low, max(high, low)


def _folded(mass: np.ndarray, points: int) -> np.ndarray:
    """The masses wound onto a ring of so many points."""
    rows = -(-len(mass) // points)
    return np.pad(mass, (0, rows * points - len(mass))).reshape(rows, points).sum(axis=0)


def _power(base: np.ndarray, exponent: int) -> np.ndarray:
    """base ** exponent by repeated squaring, which for complex arrays beats `**`."""
    result = None
    while True:
        if exponent & 1:
            result = base if result is None else result * base
        exponent >>= 1
        if not exponent:
            return result if result is not None else np.ones_like(base)
        base = base * base
