"""Which of a device's examples a private step sees.

Poisson sampling: at every step each example is in or out by a coin of its own, with one rate q. So
batches vary in size, an empty one is an ordinary one, and the amplification that the ledger claims
is that of the draw that was made (shuffled batches have a weaker guarantee; Chua et al., ICML 2024,
https://arxiv.org/abs/2403.17673). A logical batch is filled up to whole physical ones, so that
shapes repeat; what fills it up has weight 0.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fedsim.population.examples import Examples
from fedsim.training.batches import Table


def poisson_rate(examples: int, batch_size: int) -> float:
    """The rate at which a batch holds `batch_size` examples on average, 1 where fewer are held.

    Example:
      >>> poisson_rate(64, 16), poisson_rate(3, 16), poisson_rate(0, 16)
      (0.25, 1.0, 1.0)
    """
    return min(1.0, batch_size / examples) if examples else 1.0


def expected_size(examples: int, batch_size: int) -> float:
    """Expected examples of a batch, a constant that divides its sum; `batch_size` of nothing held.

    Example:
      >>> expected_size(64, 16), expected_size(3, 16), expected_size(0, 16)
      (16.0, 3.0, 16)
    """
    return poisson_rate(examples, batch_size) * examples if examples else batch_size


MOST_AT_ONCE = 512
"""Examples of a physical batch at most; beyond it a pass costs memory and saves no time."""


def physical_size(batch_size: int) -> int:
    """Examples of a physical batch: a standard deviation more than are expected, so that five
    draws of six take one pass and little of it is filling.

    Example:
      >>> physical_size(16), physical_size(4096)
      (20, 512)
    """
    return min(batch_size + math.isqrt(batch_size), MOST_AT_ONCE)


def poisson(
    examples: int, rate: float, steps: int, draw: np.random.Generator
) -> Iterator[np.ndarray]:
    """Indices of each step's batch: every example by its own coin.

    Args:
      examples: how many there are, >= 0.
      rate: of every coin, in [0, 1].
      steps: how many batches.
      draw: secret randomness.

    Example:
      >>> draw = np.random.Generator(np.random.Philox(key=0))
      >>> [sorted(batch.tolist()) for batch in poisson(3, 1.0, 2, draw)]
      [[0, 1, 2], [0, 1, 2]]
    """
    for _ in range(steps):
        size = draw.binomial(examples, rate)
        yield draw.choice(examples, size, replace=False, shuffle=False)


def poisson_batches(
    held: Examples, *, batch_size: int, steps: int, physical_size: int, draw: np.random.Generator
) -> Iterator[dict[str, Tensor]]:
    """Logical batches of one device, each a whole number of physical ones (none where it is empty).

    Args:
      held: what the device holds; null records take part in the draw and weigh 0.
      batch_size: expected examples of a batch, > 0.
      steps: how many batches.
      physical_size: examples of a physical batch.
      draw: secret randomness.

    Yields:
      Batches as `fedsim.training.batches.Table` cuts them, with `size` the *expected* number of
      examples, which does not depend on the draw (of a device that holds nothing: `batch_size`).
    """
    rate, expected = poisson_rate(len(held), batch_size), expected_size(len(held), batch_size)
    for batch in Table(held).batches(poisson(len(held), rate, steps, draw)):
        size = batch.pop("size").new_tensor(expected)
        yield _filled(batch, -len(batch["record"]) % physical_size) | {"size": size}


def _filled(batch: dict[str, Tensor], extra: int) -> dict[str, Tensor]:
    """The batch with so many more examples without words, of weight 0."""
    outside = {"slots": -1}
    return {
        name: F.pad(value, [0, 0] * (value.dim() - 1) + [0, extra], value=outside.get(name, 0))
        for name, value in batch.items()
    }
