"""Where does the noise come from: the run's own streams, or the operating system's generator?

Noise from a seeded stream makes a run reproducible; a claim then holds for whoever does not know
the seed. `secure` noise comes from the operating system and cannot be drawn again.

A floating-point Gaussian has gaps, which an observer of exact sums could use (Mironov 2012), and
that of private steps in float32 ends at 6.76 deviations (`fedsim.training.gaussian`), on a GPU
where torch's does: claims are about the Gaussian that it stands for. As in Opacus' secure mode,
secure noise is the sum of four draws divided by two, after Holohan and Braghin 2021,
https://arxiv.org/abs/2107.10138.
"""

import os
from typing import Protocol

import numpy as np
from scipy.special import ndtri

from fedsim.rng import stream


class Normal(Protocol):
    """Draws standard normal numbers."""

    def __call__(self, size: int) -> np.ndarray:
        """(size,) float64."""


def seeded(seed: int, purpose: str, round: int = 0, device: int = 0) -> Normal:
    """Standard normal numbers of a stream of `fedsim.rng`.

    Example:
      >>> bool((seeded(0, "noise", 3)(4) == seeded(0, "noise", 3)(4)).all())
      True
    """
    return stream(seed, purpose, round, device).standard_normal


def secure(size: int) -> np.ndarray:
    """Standard normal numbers from the operating system's generator, (size,) float64."""
    bits = np.frombuffer(os.urandom(32 * size), np.uint64).reshape(4, size)
    # 52 bits and a half: a half more than 53 bits would be rounded, at the top to 1.
    uniform = ((bits >> np.uint64(12)) + 0.5) * 2.0**-52
    return ndtri(uniform).sum(axis=0) / 2
