"""How long is an LSTM layer's gradient for each example, and what is the sum of the scaled ones?

The gates' pre-activations are linear in a word's input beside the state before it. So with delta_t
their gradient (the model's backward pass through time has it), the layer is a linear one with
inputs [x_t, h_{t-1}]: the squared norm is
sum_{t,s} <delta_t, delta_s> (<x_t, x_s> + <h_{t-1}, h_{s-1}> + 1), summed over directions.
Padding carries delta = 0. There is one bias: two, as in `nn.LSTM`, would count its part twice.
"""

import torch
from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.linear import add, product_squares
from fedsim.training.kernel.rules import Measured, Rule, lift, register


def measure(use: Use, inputs: Tensor, slopes: Tensor) -> Measured:
    """Parameters: input weight, recurrent weight and bias, with an axis of directions.

    Shapes (..., directions, 4 hidden, inputs), (..., directions, 4 hidden, hidden) and
    (..., directions, 4 hidden).
    """
    # One direction at a time: the two together have no layout that a batched product can read.
    directions = zip(inputs.unbind(-3), slopes.unbind(-3), strict=True)
    squares = [_squares(use, use.rows.by_example(a), use.rows.by_example(g)) for a, g in directions]
    return Measured(torch.stack(squares).sum(0), (inputs, slopes))


def _squares(use: Use, inputs: Tensor, slopes: Tensor) -> Tensor:
    features = inputs.shape[-1] + slopes.shape[-1]
    return product_squares(inputs, slopes, 1.0, lift(use, features, slopes))


register("lstm", Rule(measure, add))
