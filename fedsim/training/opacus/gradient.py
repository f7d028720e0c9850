"""What clipped sum does Opacus compute for a tagger, and at what price?

Both classes are called like `fedsim.training.kernel.clipped_gradient`, and give the same sums: the
factors are this project's (Opacus adds 1e-6 to every norm), one an example for all its layers;
weights multiply after clipping, and an example that is not finite counts as zero. A batch of nobody
never reaches Opacus, whose ghost mode cannot look up the words of none. Threads have a twin each,
for Opacus keeps what it computes on the parameters.
"""

import threading
import warnings

import torch
from opacus.grad_sample import (
    GradSampleHooks,
    GradSampleHooksFastGradientClipping,
)
from torch import Tensor, nn

from fedsim.errors import require
from fedsim.models.joint import Batch, JointTagger, Parameters
from fedsim.training.kernel import Clipped
from fedsim.training.kernel.clipping import FLAT, Factors
from fedsim.training.opacus.twins import Twin, gathered, twin_of
from fedsim.training.procedures import Losses

# Words are numbers without a gradient; the hooks of an embedding get all they need.
warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)


class HooksGradient:
    """Opacus's hooks: every example's gradient is built, then clipped.

    Args:
      model: a BiLSTM or transformer tagger.
    """

    def __init__(self, model: JointTagger) -> None:
        self._model, self._twins = model, _Twins(model, GradSampleHooks)

    def __call__(
        self,
        losses: Losses,
        parameters: Parameters,
        batch: Batch,
        clip_norm: float | Tensor,
        *,
        into: Parameters | None = None,
        factors: Factors = FLAT,
    ) -> Clipped:
        """As `clipped_gradient`; `losses` are those of the model, which the twin computes."""
        _require_own(losses, self._model)
        total = _total(parameters, batch, into)
        if not len(batch["weight"]):
            return _nobody(total, batch)
        twin, _ = self._twins.at(parameters)
        each = _losses(twin, batch)
        each.sum().backward()
        with torch.no_grad():
            places = twin.places()
            samples = {n: tuple(map(_sample, own)) for n, own in places.items()}
            flat = [g.flatten(1) for own in samples.values() for g in own]
            norms = torch.stack([g.square().sum(1) for g in flat]).sum(0).sqrt()
            scales = _scales(factors, norms, each, batch, clip_norm)
            finite = bool((norms.isfinite() & each.isfinite()).all())
            for name, own in samples.items():
                known = own if finite else tuple(torch.nan_to_num(g, 0, 0, 0) for g in own)
                sums = tuple(torch.tensordot(scales, g, 1) for g in known)
                total[name].add_(gathered({name: sums})[name])
        return Clipped(total, norms, scales, each.detach())


class GhostGradient:
    """Opacus's ghost clipping: norms from one backward pass, the sum from another.

    Args:
      model: a BiLSTM or transformer tagger.
    """

    def __init__(self, model: JointTagger) -> None:
        self._model, self._twins = model, _Twins(model, GradSampleHooksFastGradientClipping)

    def __call__(
        self,
        losses: Losses,
        parameters: Parameters,
        batch: Batch,
        clip_norm: float | Tensor,
        *,
        into: Parameters | None = None,
        factors: Factors = FLAT,
    ) -> Clipped:
        """As `clipped_gradient`; `losses` are those of the model, which the twin computes."""
        _require_own(losses, self._model)
        total = _total(parameters, batch, into)
        if not len(batch["weight"]):
            return _nobody(total, batch)
        twin, hooks = self._twins.at(parameters)
        each = _losses(twin, batch)
        each.sum().backward(retain_graph=True)
        norms = hooks.get_norm_sample()
        scales = _scales(factors, norms, each.detach(), batch, clip_norm)
        finite = norms.isfinite() & each.detach().isfinite()
        hooks.disable_hooks()
        twin.zero_grad()
        met = each
        if not bool(finite.all()):
            # 0 x inf in the second pass would be NaN: those examples are left out of it.
            met = _losses(twin, {n: v[finite] if v.dim() else v for n, v in batch.items()})
        (scales[finite] * met).sum().backward()
        hooks.enable_hooks()
        for name, own in twin.places().items():
            sums = tuple(p.new_zeros(p.shape) if p.grad is None else p.grad for p in own)
            total[name].add_(gathered({name: sums})[name])
        return Clipped(total, norms, scales, each.detach())


class _Twins:
    """One twin a thread, and Opacus's hooks on it."""

    def __init__(self, model: JointTagger, hooks: type[GradSampleHooks]) -> None:
        twin_of(model)  # Refuses now what it cannot build.
        self._model, self._hooks, self._own = model, hooks, threading.local()

    def at(self, parameters: Parameters) -> tuple[Twin, GradSampleHooks]:
        """This thread's twin at these parameters, with no gradients on it."""
        if not hasattr(self._own, "pair"):
            twin = twin_of(self._model)
            self._own.pair = twin, self._hooks(twin, loss_reduction="sum")
        twin, hooks = self._own.pair
        twin.to(next(iter(parameters.values())))
        twin.take(parameters)
        twin.zero_grad()
        hooks.set_grad_sample_to_none()
        return twin, hooks


def _total(parameters: Parameters, batch: Batch, into: Parameters | None) -> Parameters:
    require(
        batch["weight"].dim() == 1,
        "Opacus's backends work on one device at a time; choose the backend book-keeping",
    )
    return into if into is not None else {n: torch.zeros_like(p) for n, p in parameters.items()}


def _nobody(total: Parameters, batch: Batch) -> Clipped:
    none = torch.zeros_like(batch["weight"])
    return Clipped(total, none, none, none)


def _losses(twin: Twin, batch: Batch) -> Tensor:
    with torch.enable_grad():
        return twin(batch)


def _sample(parameter: nn.Parameter) -> Tensor:
    """(examples, ...): what Opacus's hooks left."""
    return parameter.grad_sample  # type: ignore[attr-defined]


def _scales(
    factors: Factors, norms: Tensor, losses: Tensor, batch: Batch, clip_norm: float | Tensor
) -> Tensor:
    each = factors(norms.square().unsqueeze(0), [["all parameters"]], clip_norm)[0]
    return torch.where(norms.isfinite() & losses.isfinite(), each, 0.0) * batch["weight"]


def _require_own(losses: Losses, model: JointTagger) -> None:
    require(
        losses == model.losses,
        "Opacus's backends compute the losses of the model itself, and others were given, such as "
        "those of micro-batches; choose the backend book-keeping",
    )
