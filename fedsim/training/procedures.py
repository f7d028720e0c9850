"""What one device does between receiving the global model and replying: three functions.

    state = procedure.start(parameters, stream)   # a copy of what the server sent
    state = procedure.step(state, batch)          # once a batch; may change the state in place
    parameters = procedure.finish(state)          # what the device sends back

A state is a tree of tensors and nothing else, and every function accepts a leading device axis on
all of them, so that an engine may run devices one by one, on threads, or stacked.

Proximal term: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020,
https://arxiv.org/abs/1812.06127. AdamW: Loshchilov & Hutter, https://arxiv.org/abs/1711.05101.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import Batch, Parameters

Losses = Callable[[Parameters, Batch], Tensor]
"""Per-example losses: (parameters, batch) -> (..., examples)."""

Descend = Callable[[Parameters, Batch, float], Tensor | None]
"""A step of SGD, in place: `fedsim.models.joint.JointTagger.descend`."""

Randomness = np.random.Generator | Sequence[np.random.Generator] | None

State = dict[str, Any]
"""A tree of tensors: `parameters`, and what a procedure keeps beside them (anchor, moments, step),
`loss` and `seen`, (...) from the first step on: sum of the losses met and how many real examples
they were over."""

SHARED = frozenset({"step", "noise", "drawing"})
"""Entries of a state that all devices of a stack have in common; all others have its axis."""


class LocalProcedure(Protocol):
    """Local training as three functions."""

    @property
    def leaves_unused_rows(self) -> bool:
        """Whether a parameter row with zero gradients stays as it was received."""

    def start(self, parameters: Parameters, stream: Randomness = None) -> State:
        """Local state from the parameters received; they are copied.

        Args:
          parameters: what the server sent.
          stream: randomness of this device and round, for procedures that draw; one for each device
            of a stack.
        """

    def step(self, state: State, batch: Batch) -> State:
        """One local step."""

    def finish(self, state: State) -> Parameters:
        """The parameters to reply with."""


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent on the batch mean, with an optional proximal term.

    Attributes:
      losses: per-example losses of the model.
      learning_rate: step size, > 0.
      proximal_mu: weight of (mu / 2) |w - w_received|^2, >= 0.
      descend: the model's own way down these losses, or None; taken where there is no proximal term
        and it can be.
    """

    losses: Losses
    learning_rate: float
    proximal_mu: float = 0.0
    descend: Descend | None = None

    leaves_unused_rows: ClassVar[bool] = True

    def start(self, parameters: Parameters, stream: Randomness = None) -> State:
        """A copy of the parameters, and the anchor where there is a proximal term."""
        return _start(parameters, self.proximal_mu)

    def step(self, state: State, batch: Batch) -> State:
        """parameters -= learning rate x gradient."""
        if self.descend is not None and not self.proximal_mu:
            each = self.descend(state["parameters"], batch, self.learning_rate)
            if each is not None:
                _note(state, (each * batch["weight"]).sum(-1), batch)
                return state
        gradients = _gradients(self.losses, state, batch, self.proximal_mu)
        with torch.no_grad():
            torch._foreach_add_(
                list(state["parameters"].values()), gradients, alpha=-self.learning_rate
            )
        return state

    def finish(self, state: State) -> Parameters:
        """The trained parameters."""
        return _detached(state["parameters"])


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with bias correction and decoupled weight decay, fresh moments every round.

    Attributes:
      losses: per-example losses of the model.
      learning_rate: step size, > 0.
      weight_decay: fraction of a parameter removed a step, before the learning rate, >= 0; nothing
        is removed before the first real example, so that a null device stays where it is.
      proximal_mu: weight of (mu / 2) |w - w_received|^2, >= 0.
    """

    losses: Losses
    learning_rate: float
    weight_decay: float = 0.0
    proximal_mu: float = 0.0

    @property
    def leaves_unused_rows(self) -> bool:
        """Only without weight decay."""
        return self.weight_decay == 0

    def start(self, parameters: Parameters, stream: Randomness = None) -> State:
        """A copy of the parameters, zero moments and a zero step counter."""
        state = _start(parameters, self.proximal_mu)
        zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
        return state | {
            "first": zeros,
            "second": {name: torch.zeros_like(p) for name, p in parameters.items()},
            "step": torch.zeros(()),
        }

    def step(self, state: State, batch: Batch) -> State:
        """One AdamW step with beta 0.9 and 0.999, epsilon 1e-8."""
        gradients = _gradients(self.losses, state, batch, self.proximal_mu)
        parameters = list(state["parameters"].values())
        first, second = list(state["first"].values()), list(state["second"].values())
        state["step"] += 1
        step = float(state["step"])
        with torch.no_grad():
            torch._foreach_lerp_(first, gradients, 0.1)
            torch._foreach_mul_(second, 0.999)
            torch._foreach_addcmul_(second, gradients, gradients, 0.001)
            scale = torch._foreach_sqrt(second)
            torch._foreach_div_(scale, (1 - 0.999**step) ** 0.5)
            torch._foreach_add_(scale, 1e-8)
            if self.weight_decay:
                _decay(parameters, self.learning_rate * self.weight_decay, state["seen"] > 0)
            torch._foreach_addcdiv_(parameters, first, scale, -self.learning_rate / (1 - 0.9**step))
        return state

    def finish(self, state: State) -> Parameters:
        """The trained parameters."""
        return _detached(state["parameters"])


def _start(parameters: Parameters, proximal_mu: float) -> State:
    own = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    zero = torch.zeros(())
    state: State = {"parameters": own, "loss": zero, "seen": zero}
    if proximal_mu:
        state["anchor"] = {name: p.detach() for name, p in parameters.items()}
    return state


def _gradients(
    losses: Losses, state: State, batch: Batch, proximal_mu: float
) -> tuple[Tensor, ...] | list[Tensor]:
    """Gradient of the batch mean (null records weigh 0, and count in its size)."""
    parameters = state["parameters"]
    each = losses(parameters, batch) * batch["weight"]
    total = each.sum(-1)
    # A batch without slots has a sum of 0, and is to leave the parameters as they are.
    mean = total / batch["size"].clamp(min=1)
    gradients = torch.autograd.grad(mean.sum(), list(parameters.values()))
    _note(state, total.detach(), batch)
    if proximal_mu:
        with torch.no_grad():
            away = torch._foreach_sub(list(parameters.values()), list(state["anchor"].values()))
            return torch._foreach_add(list(gradients), away, alpha=proximal_mu)
    return gradients


def _note(state: State, loss: Tensor, batch: Batch) -> None:
    """Add a batch's summed loss, and its real examples."""
    state["loss"] = state["loss"] + loss
    state["seen"] = state["seen"] + batch["weight"].sum(-1)


def _decay(parameters: list[Tensor], fraction: float, where: Tensor) -> None:
    """Remove a fraction of every parameter of the devices in `where`, () or (devices,) bool."""
    for p in parameters:
        p.mul_(1 - fraction * where.to(p.dtype).view(-1, *[1] * (p.dim() - 1)))


def _detached(parameters: Parameters) -> Parameters:
    return {name: p.detach() for name, p in parameters.items()}
