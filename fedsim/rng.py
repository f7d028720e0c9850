"""Where every random number comes from: one seed, many named streams.

A draw belongs to a stream named by (seed, purpose, round, device). Streams are counter-based
(Philox), so any of them can be opened at any time, in any order, on any thread, and gives the same
numbers: nothing about randomness has to be stored in a checkpoint.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> np.ndarray:
    """The 128-bit Philox key of a (seed, purpose) pair."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint64)


def stream(seed: int, purpose: str, round: int = 0, device: int = 0) -> np.random.Generator:
    """The generator of one purpose, round and device.

    Args:
      seed: the run's seed, any integer.
      purpose: what the numbers are for, such as "cohort" or "batches".
      round: round (or period) the draw belongs to, >= 0; 0 where it belongs to none.
      device: device the draw belongs to, >= 0; 0 where it belongs to none.

    Example:
      >>> a = stream(7, "cohort", round=3).random(2)
      >>> b = stream(7, "cohort", round=3).random(2)
      >>> bool((a == b).all()), bool((a == stream(7, "cohort", round=4).random(2)).any())
      (True, False)
    """
    # The low counter words advance while numbers are drawn; the high ones name the stream.
    counter = np.array([0, 0, round, device], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed, purpose), counter=counter))


def torch_generator(seed: int, purpose: str, round: int = 0, device: int = 0) -> "torch.Generator":
    """A CPU torch generator seeded from the stream of the same name."""
    # Checking options needs this module and must not wait for torch.
    import torch

    generator = torch.Generator()
    generator.manual_seed(int(stream(seed, purpose, round, device).integers(2**63)))
    return generator


@contextmanager
def seeded_globals(seed: int, purpose: str, round: int = 0) -> Iterator[None]:
    """Run code that uses Python's global `random` on a stream of ours, then restore it.

    Flower's strategies draw nodes with `random.sample`.
    """
    before = random.getstate()
    random.seed(int(stream(seed, purpose, round).integers(2**63)))
    try:
        yield
    finally:
        random.setstate(before)
