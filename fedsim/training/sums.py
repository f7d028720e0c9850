"""What is a private step summed up in, and how does noise get into it?"""

import torch
from torch import Tensor

from fedsim.models.joint import Parameters
from fedsim.privacy.noise import secure
from fedsim.training.gaussian import Source


def side_by_side(parameters: Parameters) -> tuple[Parameters, list[Tensor]]:
    """Tensors to sum in, like the parameters, and the memory they share: one draw fills them all.

    One piece of memory for each type of number, in the order of the parameters.
    """
    memory = []
    wide = dict.fromkeys(parameters, torch.empty(0))
    for dtype in dict.fromkeys(map(sum_type, parameters.values())):
        own = {name: p for name, p in parameters.items() if sum_type(p) is dtype}
        sizes = [p.numel() for p in own.values()]
        memory.append(next(iter(own.values())).new_empty(sum(sizes), dtype=dtype))
        for (name, p), part in zip(own.items(), memory[-1].split(sizes), strict=True):
            wide[name] = part.view(p.shape)
    return wide, memory


def fill(into: Tensor, deviation: float | Tensor, source: Source | None) -> None:
    """Noise of one deviation, or of one for each device; without a source, secure noise."""
    if source is None:
        # Multiplied in float64: what is rounded to the sum's type is the noise itself.
        drawn = torch.from_numpy(secure(into.numel())).view(into.shape)
        into.copy_(drawn * over(torch.as_tensor(deviation).cpu(), drawn))
    elif isinstance(deviation, Tensor):
        source.fill(into, 1.0)
        into.mul_(over(deviation, into))
    else:
        source.fill(into, deviation)


def over(each: Tensor, parameter: Tensor) -> Tensor:
    """One number for each device, shaped to multiply a parameter."""
    return each.view(each.shape + (1,) * (parameter.dim() - each.dim()))


def sum_type(parameter: Tensor) -> torch.dtype:
    """Half-precision parameters are summed and noised in float32."""
    return torch.promote_types(parameter.dtype, torch.float32)
