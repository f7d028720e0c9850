"""In which number format do the passes of local training run?

Parameters are kept, noised, updated and sent in float32 whatever the passes do: these see a copy of
them in bfloat16, which has float32's range and 8 bits. Losses are float32 in any case, since models
make them from logits that they have widened.
"""

import torch
from torch import Tensor

from fedsim.models.joint import Batch, Parameters
from fedsim.privacy.rounding import Precision
from fedsim.training.procedures import Losses


def cast(parameters: Parameters, precision: Precision) -> Parameters:
    """Parameters as the passes see them: the same tensors, or copies in bfloat16.

    Example:
      >>> cast({"w": torch.tensor([1.001])}, "bfloat16")
      {'w': tensor([1.], dtype=torch.bfloat16)}
    """
    if precision == "float32":
        return parameters
    return {name: p.to(torch.bfloat16) for name, p in parameters.items()}


def in_precision(losses: Losses, precision: Precision) -> Losses:
    """The same losses through passes in a precision, to be differentiated by float32 parameters."""
    if precision == "float32":
        return losses

    def cast_losses(parameters: Parameters, batch: Batch) -> Tensor:
        return losses(cast(parameters, precision), batch)

    return cast_losses
