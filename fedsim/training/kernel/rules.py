"""What a layer's rule is, and which rule knows which kind of layer.

A rule sees one use of a layer, what went in, and the gradient of the loss at its output. It answers
two questions: how long is the gradient of the layer's parameters for each example, and, once the
clip factors are known, what is the sum of the scaled gradients. A new kind of layer is one new file
that registers its two answers.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fedsim.models.tape import Rows, Use
from fedsim.privacy.rounding import margin


class Measured(NamedTuple):
    """A rule's answer to the first question, and what it needs for the second.

    Attributes:
      squares: (..., examples) squared norm of each example's gradient, over all of the layer's
        parameters.
      values: tensors that the sum is made of, a product of them and the factors.
    """

    squares: Tensor
    values: tuple[Tensor, ...]


class Rule(NamedTuple):
    """The two answers, as functions.

    Attributes:
      measure: (use, inputs, slopes) -> Measured; slopes are the gradient of the summed loss at the
        output.
      add: (use, values, factors (..., examples), totals, one tensor a parameter) -> None: adds the
        sum over examples of factor x gradient to `totals`, in place.
    """

    measure: Callable[[Use, Tensor, Tensor], Measured]
    add: Callable[[Use, tuple[Tensor, ...], Tensor, list[Tensor]], None]


RULES: dict[str, Rule] = {}
"""Kind of layer -> its rule."""


def register(kind: str, rule: Rule) -> None:
    """Make the rule of one kind of layer known."""
    RULES[kind] = rule


def lift(use: Use, features: int, slopes: Tensor, pieces: int = 1) -> float | Tensor:
    """By what share of its largest possible value a squared norm is rounded up.

    0 but after passes in half precision, where the bound on what an example adds is to hold
    whatever float32 has rounded: see `fedsim.privacy.rounding`. Rows without a gradient are not
    counted: how far a batch is padded depends on its longest example, and nobody else's clip
    factor may.

    Args:
      use: of the layer.
      features: as in `margin`.
      slopes: (..., examples, tokens, outputs).
      pieces: what a row adds to one row of the parameter at most.

    Returns:
      0, or (..., examples).
    """
    if use.parameters[0].dtype.itemsize >= 4:
        return 0.0
    return margin(features, pieces * (slopes != 0).any(-1).sum(-1))


def of_rows(rows: Rows, factors: Tensor, values: Tensor) -> Tensor:
    """Each row's factor, shaped to multiply `values`.

    Args:
      rows: which example each row belongs to.
      factors: (..., examples).
      values: (..., rows, features), possibly with axes between the leading and the last two.

    Returns:
      (..., 1, ..., rows, 1).
    """
    each = rows.of_example(factors)
    between = values.dim() - each.dim() - 1
    return each.view(*each.shape[:-1], *[1] * between, -1, 1)
