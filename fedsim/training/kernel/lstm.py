"""How long is an LSTM layer's gradient for each example, and what is the sum of the scaled ones?

The gates' pre-activations are linear in a word's input beside the state before it. So with delta_t
their gradient (the model's backward pass through time has it), the layer is a linear one with
inputs [x_t, h_{t-1}]: the squared norm is
sum_{t,s} <delta_t, delta_s> (<x_t, x_s> + <h_{t-1}, h_{s-1}> + 1), summed over directions.
Padding carries delta = 0. There is one bias: two, as in `nn.LSTM`, would count its part twice.
"""

from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.linear import add_product, product_norms
from fedsim.training.kernel.rules import Rule, register


def _squared_norms(use: Use, inputs: Tensor, slopes: Tensor) -> Tensor:
    each = product_norms(use.rows.by_example(inputs), use.rows.by_example(slopes))
    return each.sum(-2)


def _add(use: Use, inputs: Tensor, scaled: Tensor, totals: list[Tensor]) -> None:
    weight_ih, weight_hh, bias = totals
    width = weight_ih.shape[-1]
    add_product(weight_ih, scaled, inputs[..., :width])
    add_product(weight_hh, scaled, inputs[..., width:])
    bias.add_(scaled.sum(-2))


register("lstm", Rule(squared_norms=_squared_norms, add=_add))
