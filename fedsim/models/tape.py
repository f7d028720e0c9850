"""Which layers a forward pass went through, with what went in and what came out.

Inside `with tape() as uses:` the layer functions of the models note every use of a layer's
parameters. The gradient of a loss at the outputs noted there, together with the inputs, determines
the gradient of every parameter for every example, which is all that per-example clipping needs
(Bu et al., ICML 2023, https://arxiv.org/abs/2210.00038). Outside a tape nothing is noted.

What a layer notes is named by `kind`; `fedsim.training.kernel` holds one rule for each kind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from fedsim.models.packing import Packing


class Rows(Protocol):
    """Which example each row of a layer's inputs and outputs belongs to."""

    def by_example(self, rows: Tensor) -> Tensor:
        """(..., rows, features) -> (..., examples, tokens, features), zero where there is no row.

        A view where the layout allows one.
        """

    def of_example(self, values: Tensor) -> Tensor:
        """The value of each row's example: (..., examples) -> (..., rows)."""


class Use(NamedTuple):
    """One use of one layer.

    Attributes:
      kind: names the rule that knows the layer's gradient.
      parameters: the layer's tensors, in the order the rule expects.
      inputs: what the gradient is linear in, (..., rows, inputs); ids for an embedding.
      output: (..., rows, outputs), where the gradient of the loss is taken.
      rows: which example each row belongs to.
      gain: constant that the parameters' part of the output is multiplied by.
    """

    kind: str
    parameters: tuple[Tensor, ...]
    inputs: Tensor
    output: Tensor
    rows: Rows
    gain: float = 1.0


_uses: ContextVar[list[Use] | None] = ContextVar("uses", default=None)


@contextmanager
def tape() -> Iterator[list[Use]]:
    """Note the uses of layers, on this thread, until the block ends.

    Parameters must not require gradients: those of the outputs are wanted, and of nothing else.
    """
    uses: list[Use] = []
    token = _uses.set(uses)
    try:
        yield uses
    finally:
        _uses.reset(token)


def taping() -> bool:
    """Whether uses are being noted."""
    return _uses.get() is not None


def note(use: Use) -> None:
    """Put one use on the tape, if there is one."""
    uses = _uses.get()
    if uses is not None:
        if not use.output.requires_grad:
            # The first layer: its inputs are data, and its parameters are constants here.
            use.output.requires_grad_()
        uses.append(use)


@dataclass(frozen=True)
class Blocks:
    """Rows example by example, as many for each; one each where a layer sees examples whole.

    Example:
      >>> import torch
      >>> rows = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
      >>> Blocks(examples=2, tokens=2).by_example(rows).squeeze(-1).tolist()
      [[1.0, 2.0], [3.0, 4.0]]
      >>> Blocks(examples=2, tokens=2).of_example(torch.tensor([5, 6])).tolist()
      [5, 5, 6, 6]
    """

    examples: int
    tokens: int = 1

    def by_example(self, rows: Tensor) -> Tensor:
        """A view of (..., examples x tokens, features)."""
        return rows.unflatten(-2, (self.examples, self.tokens))

    def of_example(self, values: Tensor) -> Tensor:
        """Each value `tokens` times."""
        return values.unsqueeze(-1).expand(*values.shape, self.tokens).flatten(-2)


@dataclass(frozen=True)
class Packed:
    """Rows as a `Packing` lays words out, time step by time step."""

    packing: Packing

    def by_example(self, rows: Tensor) -> Tensor:
        """A view where all sentences are equally long, else a padded copy."""
        if self._rectangular:
            size = (self.packing.tokens, self.packing.examples)
            return rows.unflatten(-2, size).transpose(-3, -2)
        return self.packing.padded(rows)

    def of_example(self, values: Tensor) -> Tensor:
        """The value of the sentence of each place."""
        return values.index_select(-1, self.packing.example)

    @property
    def _rectangular(self) -> bool:
        return len(self.packing.mirror) == self.packing.examples * self.packing.tokens
