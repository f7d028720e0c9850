"""A table as it was received, but for the few rows that a device has trained.

A device reads a few hundred of thousands of words. Copying its table for every device of a cohort,
and reading all the copies again, takes longer than some of the training that it is to send.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class OwnRows(NamedTuple):
    """What became of a table.

    Attributes:
      received: (rows, width), shared with all that were sent it; nobody may write to it.
      rows: (n,) int64, which rows were trained, ascending, each once.
      values: (n, width), what they are now.

    Example:
      >>> import torch
      >>> OwnRows(torch.zeros(3, 2), torch.tensor([1]), torch.ones(1, 2)).whole().tolist()
      [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """

    received: Tensor
    rows: Tensor
    values: Tensor

    def whole(self) -> Tensor:
        """(rows, width), in memory of its own."""
        table = self.received.clone()
        table[self.rows] = self.values
        return table


Trained = Mapping[str, Tensor | OwnRows]
"""Parameters by name, one of them perhaps as the rows of it that are new."""


def whole(trained: Trained) -> dict[str, Tensor]:
    """All parameters as tensors."""
    return {n: p if isinstance(p, Tensor) else p.whole() for n, p in trained.items()}
