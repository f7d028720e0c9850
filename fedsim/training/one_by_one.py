"""What is the clipped sum of a model with layers that the kernel does not know?

Every example passes the model alone, forward and backward, so that its gradient is its own whatever
the layers are. That takes an ordinary step's time for each example, and little memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.models.joint import Batch, Parameters
from fedsim.training.kernel import Clipped
from fedsim.training.kernel.clipping import FLAT, Factors
from fedsim.training.kernel.stages import norms_of, wide
from fedsim.training.procedures import Losses


def one_by_one(
    losses: Losses,
    parameters: Parameters,
    batch: Batch,
    clip_norm: float | Tensor,
    *,
    into: Parameters | None = None,
    factors: Factors = FLAT,
) -> Clipped:
    """As `fedsim.training.kernel.clipped_gradient`, for one device and any differentiable losses.

    Raises:
      ConfigError: the batch is of several devices, or losses are not one an example.

    Example:
      >>> losses = lambda p, batch: batch["x"] * p["w"]
      >>> batch = {"x": torch.tensor([3.0, 0.5]), "weight": torch.ones(2)}
      >>> one_by_one(losses, {"w": torch.tensor(1.0)}, batch, clip_norm=1.0).gradients
      {'w': tensor(1.5000)}
    """
    weight = batch["weight"]
    require(
        all(v.shape[:1] == weight.shape for v in batch.values() if v.dim()),
        "a model with layers that the clipping kernel does not know is trained one device and one "
        "example at a time, and this batch is stacked or grouped; build the model from the layer "
        "functions of fedsim.models",
    )
    own = {name: p.detach() for name, p in parameters.items()}
    total = into if into is not None else {n: torch.zeros_like(wide(p)) for n, p in own.items()}
    norms, scales, met = (torch.zeros_like(weight) for _ in range(3))
    layers = [[name] for name in own]
    for b in weight.nonzero().flatten().tolist():
        one = {name: v[b : b + 1] if v.dim() else v for name, v in batch.items()}
        loss, gradients = _alone(losses, own, one)
        squares = torch.stack([g.square().sum() for g in gradients]).unsqueeze(-1)
        norm = norms_of(squares)
        norms[b], met[b] = norm[0], loss
        # 0 x inf would be NaN: what is not finite is left out, not multiplied by 0.
        if not bool(norm.isfinite() & loss.isfinite()):
            continue
        each = factors(squares, layers, clip_norm)[:, 0] * weight[b]
        scales[b] = each.amin()
        for name, g, scale in zip(own, gradients, each.expand(len(own)), strict=True):
            total[name].add_(g * scale)
    return Clipped(total, norms, scales, met)


def _alone(
    losses: Losses, parameters: Parameters, one: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch of one, and its gradients in float32 at least."""
    own = [p.clone().requires_grad_() for p in parameters.values()]
    with torch.enable_grad():
        loss = losses(dict(zip(parameters, own, strict=True)), one).sum()
    gradients = torch.autograd.grad(loss, own, materialize_grads=True, allow_unused=True)
    return loss.detach(), [wide(g) for g in gradients]
