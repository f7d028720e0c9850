"""How does Opacus's optimizer get its clipped sum from the book-keeping kernel?

`DPOptimizer` asks for each example's gradient, and clips and adds them up. Here the passes that a
`BookKeepingModule` left are measured and added up instead; everything after the sum is inherited.
The clip norm is the optimizer's own at the time of the step, which schedulers change.
"""

import itertools

import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import Tensor

from fedsim.errors import require
from fedsim.training.kernel.stages import add, clip_factors, measure, squares_of, surely
from fedsim.training.opacus.module import Pass


class BookKeepingOptimizer(DPOptimizer):
    """A `DPOptimizer` over the parameters of a `BookKeepingModule`; arguments are the same.

    An example whose gradient is not finite counts as zero.
    """

    @property
    def grad_samples(self) -> list:
        """What the passes since the last step left at each parameter.

        Raises:
          ConfigError: nothing was left, so there was no backward pass through the wrapped model.
        """
        left = [getattr(p, "grad_sample", None) for p in self.params]
        require(
            all(each is not None for each in left),
            "a parameter of the optimizer has no gradient to clip; train the module that "
            "make_private returned, with all of its trainable parameters, and call backward first",
        )
        return left

    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        """Adds the clipped sum of every pass to `summed_grad` of the parameters."""
        left = self.grad_samples
        for each in left:
            _check_processed_flag(each)
        samples = [each if isinstance(each, list) else [each] for each in left]
        for p in self.params:
            if p.summed_grad is None:
                p.summed_grad = torch.zeros_like(p)
        # Of a parameter, one pass after the other: a `Pass`, or Opacus's (examples, ...) gradients.
        for each in zip(*samples, strict=True):
            one = next(sample for sample in each if isinstance(sample, Pass))
            others = {
                p: sample
                for p, sample in zip(self.params, each, strict=True)
                if isinstance(sample, Tensor)
            }
            _add_pass(one, others, self.max_grad_norm)
        for each in left:
            _mark_as_processed(each)


def _add_pass(one: Pass, others: dict[Tensor, Tensor], clip_norm: float) -> None:
    """Clip the examples of one pass over all parameters together, and add them up."""
    for own in itertools.chain(*one.parameters):
        require(
            hasattr(own, "summed_grad"),
            f"a trainable parameter of shape {tuple(own.shape)} is in no group of the optimizer; "
            "add it, or freeze it before make_private",
        )
    measured = measure(one.uses, one.slopes)
    squares = squares_of(measured).sum(0).clamp_(min=0)
    scale = squares.shape[-1] if one.mean else 1
    squares = scale**2 * squares
    for each in others.values():
        squares = squares + each.flatten(1).square().sum(1)
    norms = squares.sqrt()
    factors, finite = clip_factors(norms, clip_norm), surely(norms.isfinite())
    totals = [[p.summed_grad for p in layer] for layer in one.parameters]  # type: ignore[attr-defined]
    add(one.uses, measured, (scale * factors).unsqueeze(0), totals, finite=finite)
    for p, each in others.items():
        known = each if finite else torch.nan_to_num(each, 0, 0, 0)
        p.summed_grad.add_(torch.tensordot(factors, known, 1))  # type: ignore[attr-defined]
