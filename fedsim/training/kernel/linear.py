"""How long is a linear layer's gradient for each example, and what is the sum of the scaled ones?

With inputs a_t and output gradients g_t over the T rows of one example, the gradient of the weight
is sum_t g_t a_t' and that of the bias sum_t g_t. Its squared norm follows from two small Gram
matrices, sum_{t,s} <g_t, g_s> (<a_t, a_s> + 1), in T (inputs + outputs) multiplications a row
instead of inputs x outputs (Goodfellow 2015, https://arxiv.org/abs/1510.01799, for T = 1; Li et
al., ICLR 2022, https://arxiv.org/abs/2110.05679). Where examples are so long that the direct
product is cheaper, it is taken, and is then smaller than the example's inputs and outputs.
"""

from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.rules import Rule, register


def product_norms(inputs: Tensor, slopes: Tensor) -> Tensor:
    """Squared norms of sum_t g_t [a_t, 1]', one for each example.

    Args:
      inputs: (..., tokens, inputs).
      slopes: (..., tokens, outputs).

    Returns:
      (...).

    Example:
      >>> import torch
      >>> a, g = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0]]])
      >>> product_norms(a, g).tolist()  # (1 + 4 + 1) * 9
      [54.0]
    """
    tokens, width, outputs = inputs.shape[-2], inputs.shape[-1], slopes.shape[-1]
    if tokens == 1:
        one = inputs.squeeze(-2).square().sum(-1) + 1
        return one * slopes.squeeze(-2).square().sum(-1)
    if tokens * (width + outputs) < width * outputs:
        pairs = (inputs @ inputs.mT).add_(1)
        return (slopes @ slopes.mT).mul_(pairs).sum((-2, -1))
    direct = (slopes.mT @ inputs).square().sum((-2, -1))
    return direct + slopes.sum(-2).square().sum(-1)


def add_product(total: Tensor, scaled: Tensor, inputs: Tensor) -> None:
    """total += sum over rows of g a'.

    Args:
      total: (..., outputs, inputs).
      scaled: (..., rows, outputs).
      inputs: (..., rows, inputs).
    """
    if total.dim() == 2:
        total.addmm_(scaled.mT, inputs)
    else:
        whole = total.flatten(0, -3)
        whole.baddbmm_(scaled.flatten(0, -3).mT, inputs.flatten(0, -3))


def _squared_norms(use: Use, inputs: Tensor, slopes: Tensor) -> Tensor:
    return product_norms(use.rows.by_example(inputs), use.rows.by_example(slopes))


def _add(use: Use, inputs: Tensor, scaled: Tensor, totals: list[Tensor]) -> None:
    weight, bias = totals
    add_product(weight, scaled, inputs)
    bias.add_(scaled.sum(-2))


register("linear", Rule(squared_norms=_squared_norms, add=_add))
