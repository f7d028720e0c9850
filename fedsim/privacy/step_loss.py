"""How is the privacy loss of one step distributed, put on a grid?

A unit that is in a step's sum with probability q, under effective noise s, makes the difference
between A = (1 - q) N(0, s^2) + q N(1, s^2) and B = N(0, s^2). The loss at an outcome x is
log(A(x) / B(x)), increasing in x, so that the outcomes between two losses are an interval and their
probability under A and under B is exact. Replacing one unit by another is the pair
(1 - q) N(0, s^2) + q N(+-1, s^2), the same in both directions.

The grid is made by connecting the dots (Doroshenko et al., PETS 2022,
https://arxiv.org/abs/2207.04380): outcomes whose loss lies between two grid points keep their
probability under A and under B, which only ever raises delta.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import ndtr

Relation = Literal["zero-out", "replace-one"]
Direction = Literal["forward", "backward"]

REACH = 8.5
"""Standard deviations of noise beyond which a single step's outcome counts as infinite loss."""

BLOCK = 16
"""Spacing, in grid points, of the coarser grid from which a long grid's moments are counted."""

MOST_KEPT = 2**13
"""Grid points of a step beyond which its loss is not kept for the next time: 64 kB each."""


class StepLoss:
    """One step's loss on a grid: `mass[k]` at loss (start + k) x spacing."""

    def __init__(self, start: int, mass: np.ndarray, infinite: float, spacing: float) -> None:
        self.start, self.mass, self.infinite, self._spacing = start, mass, infinite, spacing
        held = np.flatnonzero(mass)
        # Losses without probability may be so large that beside them the others underflow.
        self._first = start + int(held[0]) if len(held) else start
        self._held = mass[held[0] : held[-1] + 1] if len(held) else mass[:0]
        self._stride = BLOCK if len(self._held) > MOST_KEPT else 1
        if self._stride > 1:
            self._held = _coarsened(self._held)
        self._log_moments: dict[float, float] = {}

    def log_moment(self, rate: float) -> float:
        """log E[e^(rate x loss)] over the finite losses; on a long grid slightly more."""
        if rate not in self._log_moments:
            point = self._first + self._stride * np.arange(len(self._held))
            exponent = rate * self._spacing * point
            top = float(exponent.max(initial=-math.inf))
            moment = float((np.exp(exponent - top) * self._held).sum())
            self._log_moments[rate] = top + math.log(moment) if moment > 0 else math.inf
        return self._log_moments[rate]


def step_loss(
    q: float, s: float, relation: Relation, direction: Direction, spacing: float
) -> StepLoss:
    """One step's loss, drawn from A ("forward") or from B ("backward", as log(B / A))."""
    # A step among much quieter ones has a long grid, and there are many of its kind.
    many = span(q, s, relation) > MOST_KEPT * spacing
    return (_built if many else _kept)(q, s, relation, direction, spacing)


def _built(
    q: float, s: float, relation: Relation, direction: Direction, spacing: float
) -> StepLoss:
    low = math.floor(float(_loss(-REACH * s - (relation != "zero-out"), q, s, relation)) / spacing)
    high = math.ceil(float(_loss(REACH * s + 1.0, q, s, relation)) / spacing)
    edges = spacing * np.arange(low, high + 1)
    outcomes = np.concatenate([[-np.inf], _outcome(edges, q, s, relation), [np.inf]])
    means = _means(relation)
    normal = {mean: _normal_between((outcomes - mean) / s) for mean in {0.0, *means}}
    a, b = ((1 - q) * normal[0.0] + q * normal[mean] for mean in means)
    if direction == "backward":
        # The same outcomes with opposite losses, seen from B.
        a, b, edges, low = b[::-1], a[::-1], -edges[::-1], -high
    inner, other, left = a[1:-1], b[1:-1], edges[:-1]
    # e^left overflows only where B's probability is nil; the outcome then goes to the upper dot.
    rest = np.where(left < 700.0, np.exp(np.minimum(left, 700.0)) * other, 0.0)
    right = np.clip((inner - rest) / -math.expm1(-spacing), 0.0, inner)
    mass = np.zeros(len(edges))
    mass[:-1] += inner - right
    mass[1:] += right
    mass[0] += a[0]
    return StepLoss(low, mass, float(a[-1]), spacing)


_kept = lru_cache(maxsize=4096)(_built)


@lru_cache(maxsize=65536)
def span(q: float, s: float, relation: Relation) -> float:
    """Distance between the smallest and the largest loss within reach."""
    ends = np.array([-REACH * s - 1, REACH * s + 1])
    low, high = _loss(ends, q, s, relation).tolist()
    return high - low


@lru_cache(maxsize=65536)
def variance(q: float, s: float, relation: Relation) -> float:
    """Variance of one step's loss under A, by the trapezoidal rule.

    It is the larger of the two directions' (B has less mass where the loss is large), and so sets
    the grid of both: the direction with the smaller epsilon needs no finer one.
    """
    x = np.linspace(-REACH * s - 1, REACH * s + 1, 801)
    density = (1 - q) * np.exp(-(x**2) / (2 * s**2)) + q * np.exp(-((x - 1) ** 2) / (2 * s**2))
    density /= density.sum()
    loss = _loss(x, q, s, relation)
    return float(density @ (loss - density @ loss) ** 2)


def _coarsened(mass: np.ndarray) -> np.ndarray:
    """Masses moved to every BLOCK-th point, the first among them, so that no mean changes.

    Every point is shared by its two neighbours that stay: by convexity no moment falls, and over
    many steps the bounds do not drift, as they would if points were only moved up.
    """
    blocks = -(-len(mass) // BLOCK)
    rows = np.pad(mass, (0, blocks * BLOCK - len(mass))).reshape(blocks, BLOCK)
    share = np.arange(BLOCK) / BLOCK
    found = np.zeros(blocks + 1)
    found[:-1] += (rows * (1 - share)).sum(axis=1)
    found[1:] += (rows * share).sum(axis=1)
    return found


def _means(relation: Relation) -> tuple[float, float]:
    """Where the second component of A and of B sits; 0 where there is none."""
    return (1.0, 0.0) if relation == "zero-out" else (1.0, -1.0)


def _normal_between(z: np.ndarray) -> np.ndarray:
    """Standard normal probability between neighbours, from the tail that loses no digits.

    Args:
      z: increasing.
    """
    tail = ndtr(-np.abs(z))
    found = np.where(z[:-1] > 0, tail[:-1] - tail[1:], tail[1:] - tail[:-1])
    (across,) = np.nonzero((z[:-1] <= 0) & (z[1:] > 0))
    found[across] = ndtr(z[across + 1]) - tail[across]
    return found


def _loss(x: float | np.ndarray, q: float, s: float, relation: Relation) -> np.ndarray:
    """log(A / B) at an outcome; increasing in it."""
    with np.errstate(divide="ignore"):
        out, into = np.log1p(-q), np.log(q)
    up = np.logaddexp(out, into + (2 * np.asarray(x) - 1) / (2 * s**2))
    if relation == "zero-out":
        return up
    return up - np.logaddexp(out, into - (2 * np.asarray(x) + 1) / (2 * s**2))


def _outcome(loss: np.ndarray, q: float, s: float, relation: Relation) -> np.ndarray:
    """The outcome at a loss, the inverse of `_loss`; minus infinity below every loss."""
    if relation == "zero-out":
        with np.errstate(divide="ignore", invalid="ignore"):
            small = np.log(np.maximum(np.expm1(np.minimum(loss, 0.0)) + q, 0.0))
            large = loss + np.log1p(-(1 - q) * np.exp(-np.maximum(loss, 0.0)))
        return s**2 * (np.where(loss > 0, large, small) - math.log(q)) + 0.5
    if q == 1:
        return s**2 * loss / 2
    # y = e^(x / s^2) solves y^2 - 2 a sinh(loss / 2) e^(loss / 2) y = e^loss, with a as below.
    log_a = 1 / (2 * s**2) + math.log1p(-q) - math.log(q)
    half = np.abs(loss) / 2
    with np.errstate(divide="ignore"):
        log_sinh = half + np.log(-np.expm1(-2 * half)) - math.log(2) + log_a
    tail = np.where(
        log_sinh > 20, log_sinh + math.log(2), np.arcsinh(np.exp(np.minimum(log_sinh, 20.0)))
    )
    return s**2 * np.sign(loss) * (half + tail)
