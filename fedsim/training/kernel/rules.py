"""What a layer's rule is, and which rule knows which kind of layer.

A rule sees one use of a layer, and the gradient of the loss at its output. It answers two
questions: how long is the gradient of the layer's parameters for each example, and what is the sum
of the examples' gradients once the output gradients are scaled. A new kind of layer is one new file
that registers its rule.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fedsim.models.tape import Use


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The two questions, as functions.

    Attributes:
      squared_norms: (use, inputs, slopes) -> (..., examples): squared norm of each example's
        gradient, over all of the layer's parameters. `slopes` is the gradient of the summed loss at
        the output.
      add: (use, inputs, scaled, totals) -> None: adds the gradient of the layer's parameters to
        `totals`, one tensor a parameter, with `scaled` as the gradient at the output.
    """

    squared_norms: Callable[[Use, Tensor, Tensor], Tensor]
    add: Callable[[Use, Tensor, Tensor, list[Tensor]], None]


RULES: dict[str, Rule] = {}
"""Kind of layer -> its rule."""


def register(kind: str, rule: Rule) -> None:
    """Make the rule of one kind of layer known."""
    RULES[kind] = rule
