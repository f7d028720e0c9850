"""How long is a linear layer's gradient for each example, and what is the sum of the scaled ones?

With inputs a_t and output gradients g_t over the T rows of one example, the gradient of the weight
is sum_t g_t a_t' and that of the bias sum_t g_t. Its squared norm follows from two small Gram
matrices, sum_{t,s} <g_t, g_s> (<a_t, a_s> + 1), in T (inputs + outputs) multiplications a row
instead of inputs x outputs (Goodfellow 2015, https://arxiv.org/abs/1510.01799, for T = 1; Li et
al., ICLR 2022, https://arxiv.org/abs/2110.05679). Where examples are so long that the direct
product is cheaper, it is taken, and is then smaller than the example's inputs and outputs.
"""

import torch
from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.rules import Measured, Rule, lift, of_rows, register


def measure(use: Use, inputs: Tensor, slopes: Tensor) -> Measured:
    """Parameters: weight (..., outputs, inputs) and, if there is one, bias (..., outputs)."""
    constant = float(len(use.parameters) - 1)
    a, g = use.rows.by_example(inputs), use.rows.by_example(slopes)
    squares = product_squares(a, g, constant, lift(use, a.shape[-1] + g.shape[-1], g))
    return Measured(squares, (inputs, slopes))


def add(use: Use, values: tuple[Tensor, ...], factors: Tensor, totals: list[Tensor]) -> None:
    """Adds the scaled gradients of the weights (side by side over the inputs) and of the bias."""
    inputs, slopes = values
    scale = of_rows(use.rows, factors, slopes)
    weights = [total for total in totals if total.dim() == slopes.dim()]
    for bias in totals[len(weights) :]:
        bias.add_((scale.mT @ slopes).squeeze(-2))
    add_products(scale, inputs, slopes, weights)


register("linear", Rule(measure, add))

SPACINGS = 4
"""Of numbers at the largest squared norm possible, by which one is rounded up but after passes in
half precision: over twice the largest error seen among examples of two words that cancel out."""


def product_squares(
    inputs: Tensor, slopes: Tensor, constant: float, lift: float | Tensor = 0.0
) -> Tensor:
    """Squared norms of sum_t g_t [a_t, c]', one for each example.

    Args:
      inputs: (..., tokens, inputs).
      slopes: (..., tokens, outputs).
      constant: c squared, 1 where there is a bias and 0 where there is none.
      lift: share of sum (|a_t|^2 + c^2) x sum |g_t|^2 that is added at least, over words with a
        gradient; one number, or (...).

    Returns:
      (...).

    Example:
      >>> a, g = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0]]])
      >>> product_squares(a, g, constant=1.0).tolist()  # (1 + 4 + 1) * 9
      [54.0]
    """
    tokens, width, outputs = inputs.shape[-2], inputs.shape[-1], slopes.shape[-1]
    if tokens == 1:
        one = inputs.squeeze(-2).square().sum(-1) + constant
        return (1 + lift) * one * slopes.squeeze(-2).square().sum(-1)
    if tokens * (width + outputs) < width * outputs:
        return gram_squares(gram(slopes), gram(inputs) + constant, lift)
    direct = (slopes.mT @ inputs).square().sum((-2, -1))
    squares = direct + constant * slopes.sum(-2).square().sum(-1)
    return squares + _raise(inputs.square().sum(-1) + constant, slopes.square().sum(-1), lift)


def gram_squares(slopes: Tensor, others: Tensor, lift: float | Tensor = 0.0) -> Tensor:
    """Sum of the products of two Gram matrices, rounded up: (..., tokens, tokens) -> (...).

    Words may cancel out, until what is left is smaller than the rounding of what was added up. A
    norm measured too short would let an example move the sum by more than the clip norm. No product
    exceeds that of the traces over words with a gradient, of which at least a share of `lift` is
    added.

    Example:
      >>> opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
      >>> 0 < gram_squares(opposite, torch.ones(2, 2)) < 1e-5
      tensor(True)
    """
    inputs, own = (each.diagonal(dim1=-2, dim2=-1) for each in (others, slopes))
    return (slopes * others).sum((-2, -1)) + _raise(inputs, own, lift)


def _raise(inputs: Tensor, slopes: Tensor, lift: float | Tensor) -> Tensor:
    """What is added to squared norms, from the squared lengths of rows, (..., tokens) each.

    Rows without a gradient are left out, whatever went in: there are as many as the longest of a
    batch makes them, and what another example adds may not depend on that.
    """
    most = (inputs * (slopes > 0)).sum(-1) * slopes.sum(-1)
    return most * (lift if isinstance(lift, Tensor) else SPACINGS * torch.finfo(most.dtype).eps)


def gram(rows: Tensor) -> Tensor:
    """Inner products of the rows of each matrix: (..., tokens, features) -> (..., tokens, tokens).

    Example:
      >>> gram(torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])).tolist()
      [[[5.0, 6.0], [6.0, 9.0]]]
    """
    # Flat first: `matmul` would lay out both factors of a strided product afresh, one of them
    # transposed, which costs more than the product.
    flat = rows.flatten(0, -3)
    return torch.bmm(flat, flat.mT).view(*rows.shape[:-1], rows.shape[-2])


def add_products(scale: Tensor, inputs: Tensor, slopes: Tensor, weights: list[Tensor]) -> None:
    """weights += sum over rows of scale g a'.

    Args:
      scale: (..., rows, 1), broadcast over axes between leading ones and rows.
      inputs: (..., rows, inputs).
      slopes: (..., rows, outputs).
      weights: (..., outputs, part of the inputs) each; parts in order.
    """
    # The narrower of the two is scaled: it is one pass less over the wider.
    if inputs.shape[-1] < slopes.shape[-1]:
        inputs = inputs * scale
    else:
        slopes = slopes * scale
    if slopes.dim() == 2:
        weights[0].addmm_(slopes.mT, inputs)
        return
    if slopes.dim() == 3 and len(weights) == 1:
        weights[0].baddbmm_(slopes.mT, inputs)
        return
    # One product for all parts: apart, each would read the slopes again.
    product = torch.bmm(slopes.flatten(0, -3).mT, inputs.flatten(0, -3))
    product = product.view(*slopes.shape[:-2], *product.shape[-2:])
    parts = product.split([weight.shape[-1] for weight in weights], dim=-1)
    for weight, part in zip(weights, parts, strict=True):
        weight.add_(part)
