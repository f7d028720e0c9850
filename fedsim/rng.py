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


def sfc64(words: np.ndarray) -> np.random.Generator:
    """A generator faster than a stream, for draws by the million, in a given state.

    It is opened from bits of a stream, and its state has to be kept by whoever draws on.

    Args:
      words: (4,) uint64: three of bits, and how many draws were made.

    Example:
      >>> one = sfc64(np.array([1, 2, 3, 1], np.uint64))
      >>> _ = one.integers(2**64, size=5, dtype=np.uint64)
      >>> one.bit_generator.state["state"]["state"][3]
      np.uint64(6)
    """
    generator = np.random.SFC64(0)
    generator.state = generator.state | {"state": {"state": words}}
    return np.random.Generator(generator)


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
