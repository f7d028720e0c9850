"""What does a wrapped model leave for the optimizer after a backward pass?

Opacus's own modules leave every example's gradient, or two backward passes. This one leaves what
went into each layer and what came back (a `Pass`), from which the optimizer takes norms and the
clipped sum. Parameters take part as constants, so that autograd forms no gradient of them.
"""

import logging
from collections.abc import Sequence
from functools import partial

import torch
from opacus.grad_sample import AbstractGradSampleModule, GradSampleHooks
from opacus.layers.dp_rnn import DPGRU, DPLSTM, DPRNN
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.errors import require
from fedsim.models.modules import listen, why_unknown
from fedsim.models.tape import Use, tape
from fedsim.training.kernel.stages import matched
from fedsim.training.validator import mixing_faults

logger = logging.getLogger(__name__)


class Pass:
    """One forward and backward pass, as the optimizer finds it at every parameter.

    Attributes:
      uses: the layers, without their outputs.
      slopes: gradients of the loss at the outputs, zero where it does not depend on one.
      parameters: of each use, in the order of its rule.
      mean: whether the loss was a mean over the examples, not a sum.
    """

    def __init__(
        self, uses: Sequence[Use], parameters: Sequence[Sequence[nn.Parameter]], *, mean: bool
    ) -> None:
        # A hook that held its own graph would keep it alive for ever.
        self.uses = [
            use._replace(inputs=use.inputs.detach(), output=use.output.new_empty(0)) for use in uses
        ]
        self.parameters, self.mean = parameters, mean
        self._shapes = [use.output.shape for use in uses]
        self._taken: dict[int, Tensor] = {}
        for k, use in enumerate(uses):
            use.output.register_hook(partial(self._take, k))

    @property
    def slopes(self) -> list[Tensor]:
        taken = self._taken
        like = next(iter(taken.values()))
        return [
            taken[k] if k in taken else like.new_zeros(shape)
            for k, shape in enumerate(self._shapes)
        ]

    def _take(self, k: int, slope: Tensor) -> None:
        require(
            k not in self._taken,
            "backward was called twice on the result of one forward pass, which would clip each "
            "half by itself; add the losses up and call it once",
        )
        if not self._taken:
            for p in (p for layer in self.parameters for p in layer):
                # Where Opacus's optimizers look, and clear, what a pass has left.
                p.grad_sample = [*(p.grad_sample or []), self]  # type: ignore[attr-defined]
        self._taken[k] = slope.detach()


class BookKeepingModule(AbstractGradSampleModule):
    """A model in training, whose backward passes leave a `Pass` for `BookKeepingOptimizer`.

    Args:
      m: the model; its trainable layers are `nn.Linear`, `nn.Embedding`, `nn.LayerNorm` and
        `fedsim.models.LSTM`, or are left to Opacus, which is logged once. Examples come first in
        every layer's input.
      batch_first: True.
      loss_reduction: "mean" or "sum": what the loss does over the examples.

    Raises:
      ConfigError: a layer breaks per-example gradients, or none is one the kernel knows.
    """

    def __init__(
        self, m: nn.Module, *, batch_first: bool = True, loss_reduction: str = "mean"
    ) -> None:
        require(batch_first, "batch_first is False; put examples first in every layer's input")
        require(
            loss_reduction in ("mean", "sum"),
            f"loss_reduction is {loss_reduction!r}; choose 'mean' or 'sum'",
        )
        faults = mixing_faults(m)
        require(not faults, "; ".join(faults))
        super().__init__(m, batch_first=True, loss_reduction=loss_reduction)
        known, left = _parted(m)
        names = {id(p): name for name, p in m.named_parameters()}
        self._known = {
            names[id(p)]: p
            for module in known
            for p in module.parameters(recurse=False)
            if p.requires_grad
        }
        require(
            bool(self._known),
            "the model has no trainable layer that the clipping kernel knows; "
            "use Opacus's own PrivacyEngine",
        )
        self._handles = [handle for module in known if (handle := listen(module))]
        self._left = [GradSampleHooks(each, loss_reduction=loss_reduction) for each in left]
        if left:
            kinds = ", ".join(sorted({type(module).__name__ for module in left}))
            logger.warning(
                "the clipping kernel does not know %s; Opacus's hooks take their gradients", kinds
            )
        self._accumulates = True

    def forward(self, *args, **kwargs):
        """What the model returns; in training, its layers are noted."""
        if not (self._module.training and torch.is_grad_enabled()):
            return self._module(*args, **kwargs)
        require(
            self._accumulates
            or not any(getattr(p, "grad_sample", None) for p in self._known.values()),
            "a second pass before optimizer.step() and zero_grad(): a Poisson batch is one "
            "pass; use opacus.utils.batch_memory_manager.BatchMemoryManager for large ones",
        )
        own = {name: p.detach() for name, p in self._known.items()}
        with tape() as uses:
            output = functional_call(self._module, own, args, kwargs)
        ids = {id(p) for p in own.values()}
        uses = [use for use in uses if any(id(p) in ids for p in use.parameters)]
        layers = [[self._known[name] for name in names] for names in matched(uses, own)]
        Pass(uses, layers, mean=self.loss_reduction == "mean")
        return output

    def forbid_grad_accumulation(self) -> None:
        """Refuse a second pass before the optimizer's step."""
        self._accumulates = False

    def allow_grad_accumulation(self) -> None:
        """Let passes add up until the optimizer's step."""
        self._accumulates = True

    def remove_hooks(self) -> None:
        """Leave the wrapped model as it was."""
        for handle in self._handles:
            handle.remove()
        for hooks in self._left:
            hooks.remove_hooks()


def _parted(module: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules that the kernel knows, one by one, and those it does not, with all below them."""
    trainable = any(p.requires_grad for p in module.parameters())
    recurrent = isinstance(module, (DPRNN, DPLSTM, DPGRU))
    if trainable and (recurrent or why_unknown(module)):
        return [], [module]
    own = any(p.requires_grad for p in module.parameters(recurse=False))
    known, left = [module] * own, list[nn.Module]()
    for child in module.children():
        more, others = _parted(child)
        known, left = known + more, left + others
    return known, left
