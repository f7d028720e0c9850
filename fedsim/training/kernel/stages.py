"""How does one backward pass become a sum of clipped gradients, step by step?

    names = matched(uses, parameters)        # each layer's own; refuses what is wrong
    measured = measure(uses, slopes)         # what each layer has to say about each example
    squares = squares_of(measured)           # (layers, ..., examples)
    factors = ...                            # what gradients are multiplied by, layer by layer
    add(uses, measured, factors, totals)     # the sum, added to what is there

`slopes` are the gradients of the summed loss at the layers' outputs. Factors come from a way of
clipping (`fedsim.privacy.clipping`), or from `clip_factors` where there is one norm for all layers.
The stages are apart because others bring their own first or last: losses of their own, or norms of
layers that are not here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.models.tape import Use
from fedsim.training.kernel.rules import RULES, Measured


def matched(uses: Sequence[Use], parameters: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of the parameters of each use, in the order of its rule.

    Raises:
      ConfigError: a parameter is used by no layer the kernel knows, or by more than one.
    """
    names = {id(p): name for name, p in parameters.items()}
    used = [[name for p in use.parameters if (name := names.get(id(p)))] for use in uses]
    counts = dict.fromkeys(parameters, 0)
    for name in (name for each in used for name in each):
        counts[name] += 1
    for name, count in counts.items():
        require(
            count == 1,
            f"parameter {name} is used by {count} layers that the clipping kernel knows, and its "
            "gradient is exact for one alone; build the model from the layer functions of "
            "fedsim.models, one parameter each",
        )
    return used


def measure(uses: Sequence[Use], slopes: Sequence[Tensor]) -> list[Measured]:
    """Squared gradient norms of every layer, in float32 at least, and what the sums are made of.

    Raises:
      ConfigError: not all layers see the same number of examples.
    """
    measured = [
        RULES[use.kind].measure(use, wide(use.inputs.detach()), wide(slope))
        for use, slope in zip(uses, slopes, strict=True)
    ]
    counts = [m.squares.shape[-1] for m in measured]
    few = counts.index(min(counts))
    require(
        counts[few] == max(counts),
        f"a layer of kind {uses[few].kind} with a parameter of shape "
        f"{tuple(uses[few].parameters[0].shape)} sees {counts[few]} examples where another sees "
        f"{max(counts)}, so whose gradient is whose is lost; give it an input for every example "
        "(position ids: expand them over the batch)",
    )
    return measured


def squares_of(measured: Sequence[Measured]) -> Tensor:
    """(layers, ..., examples) squared gradient norms."""
    return torch.stack([m.squares for m in measured])


def norms_of(squares: Tensor) -> Tensor:
    """Gradient norms over all layers: (layers, ..., examples) -> (..., examples)."""
    return squares.sum(0).clamp_(min=0).sqrt_()


def clip_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """min(1, clip norm / norm), and 0 where the norm is not finite.

    Example:
      >>> clip_factors(torch.tensor([0.5, 4.0, torch.inf, 0.0]), 1.0).tolist()
      [1.0, 0.25, 0.0, 1.0]
    """
    return torch.where(norms.isfinite(), (clip_norm / norms).clamp_(max=1.0), 0.0)


def add(
    uses: Sequence[Use],
    measured: Sequence[Measured],
    factors: Tensor,
    totals: Sequence[list[Tensor]],
    *,
    finite: bool,
) -> None:
    """Adds the sum over examples of factor x gradient to the totals of each use, in place.

    Args:
      uses: the layers.
      measured: what `measure` said of them.
      factors: (layers, ..., examples), or (1, ..., examples) where all layers share one; 0 where
        an example's gradient is not finite.
      totals: tensors like the parameters of each use.
      finite: whether all examples are known to be finite.
    """
    each = factors.expand(len(uses), *factors.shape[1:])
    for use, m, factor, tensors in zip(uses, measured, each, totals, strict=True):
        # Of an example that counts as zero, 0 x inf would be NaN.
        values = m.values if finite else tuple(torch.nan_to_num(v, 0, 0, 0) for v in m.values)
        RULES[use.kind].add(use, values, factor, tensors)


def surely(finite: Tensor) -> bool:
    """Whether all examples are known to be finite; an accelerator is not waited for, so never."""
    return finite.device.type == "cpu" and bool(finite.all())


def wide(values: Tensor) -> Tensor:
    """Half precision is for the passes; norms and sums are taken in float32."""
    half = values.dtype in (torch.bfloat16, torch.float16)
    return values.float() if half else values
