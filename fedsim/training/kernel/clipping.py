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

from fedsim.models.joint import Batch, Parameters
from fedsim.models.tape import tape
from fedsim.privacy.clipping import Flat
from fedsim.training.kernel.stages import (
    add,
    matched,
    measure,
    norms_of,
    squares_of,
    surely,
    wide,
)
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
    names = matched(uses, own)
    total = into if into is not None else {n: torch.zeros_like(wide(p)) for n, p in own.items()}
    outputs = [use.output for use in uses]
    slopes = torch.autograd.grad(each.sum(), outputs, materialize_grads=True)
    with torch.no_grad():
        each = each.detach()
        measured = measure(uses, slopes)
        squares = squares_of(measured)
        norms = norms_of(squares)
        finite = norms.isfinite() & each.isfinite()
        scales = torch.where(finite, factors(squares, names, clip_norm), 0.0) * batch["weight"]
        totals = [[total[name] for name in layer] for layer in names]
        add(uses, measured, scales, totals, finite=surely(finite))
    return Clipped(total, norms, scales.amin(0), each)
