"""What is the sum of a batch's gradients, each clipped to a norm of its own?

Book-keeping (Bu et al., ICML 2023, https://arxiv.org/abs/2210.00038): one backward pass to the
outputs of the layers; norms from small products of what went in and what came back; then the
ordinary products of ordinary training, with the output gradients of each example scaled by its clip
factor. No example's gradient is ever stored, and nothing waits for the device to answer.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.models.joint import Batch, Parameters
from fedsim.models.tape import Use, tape
from fedsim.privacy.clipping import Flat
from fedsim.training.kernel.rules import RULES
from fedsim.training.procedures import Losses

Factors = Callable[[Tensor, Sequence[Sequence[str]], float | Tensor], Tensor]
"""What gradients are multiplied by, from their norms: see `fedsim.privacy.clipping`."""

FLAT: Factors = Flat().factors
"""min(1, clip norm / norm over all layers)."""


class Clipped(NamedTuple):
    """Clipped gradients of a batch, added up, and what they were made from.

    Everything but `gradients` is per example, private, and to be dropped before anything is
    released.

    Attributes:
      gradients: sum of weight x factor x gradient; float32 at least.
      norms: (..., examples) gradient norms over all parameters; of padding too.
      factors: (..., examples) weight x factor, the smallest of its layers; 0 where the gradient is
        not finite.
      losses: (..., examples).
    """

    gradients: Parameters
    norms: Tensor
    factors: Tensor
    losses: Tensor


def clipped_gradient(
    losses: Losses,
    parameters: Parameters,
    batch: Batch,
    clip_norm: float | Tensor,
    *,
    into: Parameters | None = None,
    factors: Factors = FLAT,
) -> Clipped:
    """Sum of the per-example gradients of a batch, each clipped to `clip_norm`.

    Args:
      losses: per-example losses of a model whose layers note their uses (`fedsim.models.tape`).
      parameters: where gradients are taken; all or none with a leading device axis.
      batch: examples; `weight` (..., examples) multiplies the clipped gradients. An example whose
        loss or gradient is not finite counts as zero.
      clip_norm: largest norm of one example's gradient over all parameters, > 0; may be infinite,
        or (..., 1), of each device.
      into: tensors the sum is added to, in place, such as noise or the sum so far; zeros if None.
      factors: what gradients are multiplied by; min(1, clip_norm / norm) unless given.

    Raises:
      ConfigError: a parameter is used by no layer the kernel knows, or by more than one.

    Example:
      >>> from fedsim.models import BiLSTMTagger
      >>> model = BiLSTMTagger(rows=9, intents=2, slot_labels=3, embedding=4, hidden=2)
      >>> model.initialise(torch.Generator().manual_seed(0))
      >>> batch = {
      ...     "token_ids": torch.tensor([[[4], [5]], [[6], [0]]]),
      ...     "lengths": torch.tensor([2, 1]),
      ...     "intents": torch.tensor([0, 1]),
      ...     "slots": torch.tensor([[0, 1], [2, -1]]),
      ...     "weight": torch.ones(2),
      ... }
      >>> own = dict(model.named_parameters())
      >>> clipped = clipped_gradient(model.losses, own, batch, clip_norm=0.5)
      >>> bool((clipped.norms > 0.5).all()), (clipped.factors * clipped.norms).tolist()
      (True, [0.5, 0.5])
    """
    own = {name: p.detach() for name, p in parameters.items()}
    with torch.enable_grad(), tape() as uses:
        each = losses(own, batch)
    totals = _matched(uses, own, into)
    outputs = [use.output for use in uses]
    slopes = torch.autograd.grad(each.sum(), outputs, materialize_grads=True)
    with torch.no_grad():
        each = each.detach()
        measured = [
            RULES[use.kind].measure(use, _wide(use.inputs.detach()), _wide(g))
            for use, g in zip(uses, slopes, strict=True)
        ]
        squares = torch.stack([m.squares for m in measured])
        norms = squares.sum(0).clamp_(min=0).sqrt_()
        finite = norms.isfinite() & each.isfinite()
        scales = torch.where(finite, factors(squares, totals.names, clip_norm), 0.0)
        scales *= batch["weight"]
        surely = _surely(finite)
        layers = zip(uses, measured, totals.uses, scales.expand_as(squares), strict=True)
        for use, m, tensors, scale in layers:
            # Of an example that counts as zero, 0 x inf would be NaN.
            values = m.values if surely else tuple(torch.nan_to_num(v, 0, 0, 0) for v in m.values)
            RULES[use.kind].add(use, values, scale, tensors)
    return Clipped(totals.gradients, norms, scales.amin(0), each)


class _Totals(NamedTuple):
    gradients: Parameters
    uses: list[list[Tensor]]
    names: list[list[str]]


def _matched(uses: list[Use], parameters: Parameters, into: Parameters | None) -> _Totals:
    """The tensors each use adds to; refuses what the rules would get wrong."""
    names = {id(p): name for name, p in parameters.items()}
    used = [[names.get(id(p)) for p in use.parameters] for use in uses]
    counts = dict.fromkeys(parameters, 0)
    for name in (name for each in used for name in each if name is not None):
        counts[name] += 1
    for name, count in counts.items():
        require(
            count == 1,
            f"parameter {name} is used by {count} layers that the clipping kernel knows, and its "
            "gradient is exact for one alone; build the model from the layer functions of "
            "fedsim.models, one parameter each",
        )
    gradients = into if into is not None else {n: _zeros(p) for n, p in parameters.items()}
    layers = [[name for name in each if name] for each in used]
    return _Totals(gradients, [[gradients[name] for name in each] for each in layers], layers)


def _surely(finite: Tensor) -> bool:
    """Whether all examples are known to be finite; an accelerator is not waited for, so never."""
    return finite.device.type == "cpu" and bool(finite.all())


def _wide(values: Tensor) -> Tensor:
    """Half precision is for the passes; norms and sums are taken in float32."""
    half = values.dtype in (torch.bfloat16, torch.float16)
    return values.float() if half else values


def _zeros(parameter: Tensor) -> Tensor:
    return torch.zeros_like(_wide(parameter))
