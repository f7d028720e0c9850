"""How long is the gradient of a scale and a bias for each example, and what is the scaled sum?

A normalisation's output is scale * a + bias, feature by feature: an example's gradient is two
vectors, sum_t g_t * a_t and sum_t g_t, as small as one of its rows, so they are simply built.
"""

from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.rules import Measured, Rule, lift, register


def measure(use: Use, inputs: Tensor, slopes: Tensor) -> Measured:
    """Parameters: scale and bias, (..., features) each."""
    each = [use.rows.by_example(rows) for rows in (slopes * inputs, slopes)]
    scale, bias = (rows.sum(-2) for rows in each)
    squares = scale.square().sum(-1) + bias.square().sum(-1)
    share = lift(use, scale.shape[-1], each[1])
    if isinstance(share, Tensor):
        # As long as all words pointing the same way would be, at most.
        words = (each[1] != 0).any(-1).sum(-1)
        squares += share * words * sum(rows.square().sum((-2, -1)) for rows in each)
    return Measured(squares, (scale, bias))


def add(use: Use, values: tuple[Tensor, ...], factors: Tensor, totals: list[Tensor]) -> None:
    """Adds the scaled gradients of scale and bias."""
    for total, each in zip(totals, values, strict=True):
        total.add_((factors.unsqueeze(-2) @ each).squeeze(-2))


register("affine", Rule(measure, add))
