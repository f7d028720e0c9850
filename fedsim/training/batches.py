"""Which examples a device trains on, in which batches.

The order is a pure function of (seed, round, device), so every engine sees the same batches.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from fedsim.population.examples import Examples

AT_ONCE = 16
"""Batches that are cut together: that takes as many operations on arrays as one of them does."""


class Table:
    """A device's examples, padded once, from which any number of batches is cut.

    Args:
      examples: what the device holds.

    Example:
      >>> from fedsim import Population
      >>> held = Population.load("home", devices=3).held(0, period=0, seed=0)
      >>> first, second = Table(held).batches([np.array([0, 1]), np.array([2])])
      >>> torch.equal(first["token_ids"], tensors(held, np.array([0, 1]))["token_ids"])
      True
    """

    def __init__(self, examples: Examples) -> None:
        self._rows = examples.padded(np.arange(len(examples)))
        self._weight = (~self._rows.null).astype(np.float32)

    def batches(self, parts: Iterable[np.ndarray]) -> Iterator[dict[str, Tensor]]:
        """Padded batches, rows sorted by length, longest first.

        Args:
          parts: (B,) which of the examples, batch by batch.

        Yields:
          token_ids (B, T, pieces), lengths (B,), intents (B,), slots (B, T) with -1 at padding,
          weight (B,) float32 (0 for null records), record (B,) int64 (which of the examples it is),
          size () float32 (B: null records are counted).
        """
        waiting = iter(parts)
        while some := list(islice(waiting, AT_ONCE)):
            yield from self._cut(some)

    def _cut(self, parts: list[np.ndarray]) -> Iterator[dict[str, Tensor]]:
        """Rows of all the batches are taken together, and each batch is a view of them."""
        sizes = np.array([len(part) for part in parts])
        chosen = np.concatenate(parts)
        part = np.repeat(np.arange(len(parts)), sizes)
        longest_first = np.lexsort((-self._rows.lengths[chosen], part))
        chosen = chosen[longest_first].astype(np.int64)
        rows, weight = self._rows, self._weight[chosen]
        token_ids, lengths = rows.token_ids[chosen], rows.lengths[chosen]
        intents, slots = rows.intents[chosen], rows.slots[chosen]
        ends = np.cumsum(sizes).tolist()
        counts = torch.from_numpy(sizes.astype(np.float32)).unbind()
        for start, end, size in zip([0, *ends[:-1]], ends, counts, strict=True):
            width = int(lengths[start]) if end > start else 1
            yield {
                "token_ids": torch.from_numpy(token_ids[start:end, :width]),
                "lengths": torch.from_numpy(lengths[start:end]),
                "intents": torch.from_numpy(intents[start:end]),
                "slots": torch.from_numpy(slots[start:end, :width]),
                "weight": torch.from_numpy(weight[start:end]),
                "record": torch.from_numpy(chosen[start:end]),
                "size": size,
            }


def tensors(examples: Examples, indices: np.ndarray) -> dict[str, Tensor]:
    """A single batch as `Table.batches` cuts it, out of a set too large to be padded whole."""
    (batch,) = Table(examples.take(indices)).batches([np.arange(len(indices))])
    return batch | {"record": torch.from_numpy(indices.astype(np.int64))[batch["record"]]}


def steps_of(examples: int, batch_size: int, epochs: int, steps: int | None) -> int:
    """Local steps of a device: `steps` if given, else epochs x ceil(examples / batch size).

    Example:
      >>> steps_of(33, 16, 1, None), steps_of(33, 16, 1, 5), steps_of(0, 16, 1, 5)
      (3, 5, 0)
    """
    if examples == 0:
        return 0
    return steps if steps is not None else epochs * -(-examples // batch_size)


def examples_served(
    held: np.ndarray, batch_size: int, epochs: int, steps: int | None
) -> np.ndarray:
    """Examples a device's optimizer is served in one round, repeats counted.

    Batches are consecutive parts of a fresh order of everything the device holds, epoch after
    epoch, the last of an epoch as short as it comes.

    Args:
      held: examples held, any shape.
      batch_size: examples a batch, >= 1.
      epochs: passes over what is held; not used where `steps` is given.
      steps: batches, or None.

    Example:
      >>> examples_served(np.array([0, 5, 33]), 16, epochs=2, steps=None).tolist()
      [0, 10, 66]
      >>> examples_served(np.array([0, 5, 33]), 16, epochs=1, steps=4).tolist()
      [0, 20, 49]
    """
    if steps is None:
        return epochs * held
    batches = np.maximum(-(-held // batch_size), 1)
    return steps // batches * held + np.minimum(steps % batches * batch_size, held)


def shuffled(
    examples: int, batch_size: int, steps: int, draw: np.random.Generator
) -> Iterator[np.ndarray]:
    """Indices of each batch: epoch after epoch in fresh orders, until `steps` batches are out."""
    done = 0
    while done < steps:
        order = draw.permutation(examples)
        for start in range(0, examples, batch_size):
            if done == steps:
                return
            yield order[start : start + batch_size]
            done += 1
