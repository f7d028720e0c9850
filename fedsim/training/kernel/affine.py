"""How long is the gradient of a scale and a bias for each example, and what is the scaled sum?

A normalisation's output is scale * a + bias, feature by feature: an example's gradient is two
vectors, sum_t g_t * a_t and sum_t g_t, as small as one row, so they are simply built.
"""

from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.rules import Rule, register


def _squared_norms(use: Use, inputs: Tensor, slopes: Tensor) -> Tensor:
    scale = use.rows.by_example(slopes * inputs).sum(-2)
    bias = use.rows.by_example(slopes).sum(-2)
    return scale.square().sum(-1) + bias.square().sum(-1)


def _add(use: Use, inputs: Tensor, scaled: Tensor, totals: list[Tensor]) -> None:
    scale, bias = totals
    scale.add_((scaled * inputs).sum(-2))
    bias.add_(scaled.sum(-2))


register("affine", Rule(squared_norms=_squared_norms, add=_add))
