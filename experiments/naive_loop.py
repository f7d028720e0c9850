"""What does clipping cost the obvious way, one backward pass for each example?

The baseline that every other way is faster than; called like
`fedsim.training.kernel.clipped_gradient`.
"""

import torch
from torch import Tensor

from fedsim.models.joint import Batch, Parameters
from fedsim.training.kernel import Clipped
from fedsim.training.kernel.clipping import FLAT, Factors
from fedsim.training.procedures import Losses


def naive_loop(
    losses: Losses,
    parameters: Parameters,
    batch: Batch,
    clip_norm: float | Tensor,
    *,
    into: Parameters | None = None,
    factors: Factors = FLAT,
) -> Clipped:
    """As `clipped_gradient`, for one device and factors that all layers share.

    Example:
      >>> losses = lambda p, batch: batch["x"] * p["w"]
      >>> batch = {"x": torch.tensor([3.0, 0.5]), "weight": torch.ones(2)}
      >>> naive_loop(losses, {"w": torch.tensor(1.0)}, batch, clip_norm=1.0).gradients
      {'w': tensor(1.5000)}
    """
    total = into if into is not None else {n: torch.zeros_like(p) for n, p in parameters.items()}
    norms, scales, met = [], [], []
    for b in range(len(batch["weight"])):
        one = {name: v[b : b + 1] if v.dim() else v for name, v in batch.items()}
        own = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        loss = losses(own, one).sum()
        gradients = torch.autograd.grad(loss, list(own.values()))
        squares = torch.stack([g.square().sum() for g in gradients]).unsqueeze(-1)
        norm = squares.sum().sqrt()
        known = bool(norm.isfinite() & loss.isfinite())
        factor = factors(squares, [[name] for name in own], clip_norm)[0, 0] * batch["weight"][b]
        for name, gradient in zip(own, gradients, strict=True):
            if known:
                total[name].add_(gradient * factor)
        norms.append(norm)
        scales.append(factor if known else torch.zeros_like(factor))
        met.append(loss.detach())
    none = torch.zeros_like(batch["weight"])
    stacked = (torch.stack(v) if v else none for v in (norms, scales, met))
    return Clipped(total, *stacked)
