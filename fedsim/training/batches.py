"""Which examples a device trains on, in which batches.

The order is a pure function of (seed, round, device), so every engine sees the same batches.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fedsim.population.examples import Examples


class Table:
    """A device's examples, padded once, from which any number of batches is cut.

    Args:
      examples: what the device holds.

    Example:
      >>> from fedsim import Population
      >>> held = Population.load("home", devices=3).held(0, period=0, seed=0)
      >>> batch = Table(held).batch(np.array([0, 1]))
      >>> torch.equal(batch["token_ids"], tensors(held, np.array([0, 1]))["token_ids"])
      True
    """

    def __init__(self, examples: Examples) -> None:
        self._rows = examples.padded(np.arange(len(examples)))
        self._weight = (~self._rows.null).astype(np.float32)

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """One padded batch, rows sorted by length, longest first.

        Args:
          indices: (B,) which of the examples.

        Returns:
          token_ids (B, T, pieces), lengths (B,), intents (B,), slots (B, T) with -1 at padding,
          weight (B,) float32 (0 for null records), record (B,) int64 (which of the examples it is),
          size () float32 (B: null records are counted).
        """
        rows = self._rows
        longest_first = indices[np.argsort(-rows.lengths[indices], kind="stable")]
        lengths = rows.lengths[longest_first]
        width = int(lengths[0]) if len(lengths) else 1
        return {
            "token_ids": torch.from_numpy(rows.token_ids[longest_first, :width]),
            "lengths": torch.from_numpy(lengths),
            "intents": torch.from_numpy(rows.intents[longest_first]),
            "slots": torch.from_numpy(rows.slots[longest_first, :width]),
            "weight": torch.from_numpy(self._weight[longest_first]),
            "record": torch.from_numpy(longest_first.astype(np.int64)),
            "size": torch.tensor(float(len(indices))),
        }


def tensors(examples: Examples, indices: np.ndarray) -> dict[str, Tensor]:
    """A single batch as `Table.batch` cuts it, out of a set too large to be padded whole."""
    batch = Table(examples.take(indices)).batch(np.arange(len(indices)))
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
