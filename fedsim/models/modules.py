"""How do PyTorch's own modules tell a tape what went through them?

`noting(model)` makes every `nn.Linear`, `nn.Embedding` and `nn.LayerNorm` in a model note its uses,
as the layer functions of the taggers do, so that the same kernel clips their gradients. Examples
are along the first axis of every module's input. Without a tape the hooks do nothing.
"""

from collections.abc import Callable
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.errors import require
from fedsim.models.drop_in import LSTM
from fedsim.models.tape import Blocks, Use, note, taping


def noting(model: nn.Module) -> nn.Module:
    """The same model, whose modules note their uses from now on.

    Args:
      model: any module; `fedsim.models.LSTM` notes its uses by itself.

    Raises:
      ConfigError: a module has parameters and is none of those known.

    Example:
      >>> import torch
      >>> from fedsim.models.tape import tape
      >>> model = noting(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))
      >>> _ = model.requires_grad_(False)
      >>> with tape() as uses:
      ...     _ = model(torch.ones(4, 3))
      >>> [use.kind for use in uses]
      ['linear', 'linear']
    """
    for name, module in model.named_modules():
        hook = _HOOKS.get(type(module))
        silent = not list(module.parameters(recurse=False)) and not isinstance(module, _BatchNorm)
        require(
            hook is not None or silent or isinstance(module, LSTM),
            f"module {name or 'model'} is a {type(module).__name__}, whose per-example gradients "
            "the clipping kernel does not know; build the model from nn.Linear, nn.Embedding, "
            "nn.LayerNorm and fedsim.models.LSTM",
        )
        if hook is not None:
            _checked(name, module)
            module.register_forward_hook(hook)
    return model


def _linear(module: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor | None:
    parameters = (module.weight,) if module.bias is None else (module.weight, module.bias)
    return _noted("linear", parameters, args[0], output)


def _embedding(module: nn.Embedding, args: tuple[Tensor], output: Tensor) -> Tensor | None:
    return _noted("embedding", (module.weight,), args[0].unsqueeze(-1), output)


def _layer_norm(module: nn.LayerNorm, args: tuple[Tensor], output: Tensor) -> Tensor | None:
    if not taping():
        return None
    normed = F.layer_norm(args[0].detach(), module.normalized_shape, eps=module.eps)
    return _noted("affine", (module.weight, module.bias), normed, output)


def _noted(
    kind: str, parameters: tuple[Tensor, ...], inputs: Tensor, output: Tensor
) -> Tensor | None:
    """Note the use, and hand on the tensor whose gradient is asked for."""
    if not taping():
        return None
    examples, between = output.shape[0], output.shape[1:-1]
    rows = output.flatten(0, -2)
    note(Use(kind, parameters, inputs.flatten(0, -2), rows, Blocks(examples, prod(between))))
    return rows.view(output.shape)


_HOOKS: dict[type[nn.Module], Callable] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
}


def _checked(name: str, module: nn.Module) -> None:
    """Refuse settings under which the rules would be wrong."""
    if isinstance(module, nn.Embedding):
        for field in ("padding_idx", "max_norm"):
            found = getattr(module, field)
            require(
                found is None,
                f"{field} of {name} is {found}, which the clipping kernel does not know; "
                "leave it out",
            )
    if isinstance(module, nn.LayerNorm):
        plain = module.elementwise_affine and module.bias is not None
        require(
            plain and len(module.normalized_shape) == 1,
            f"{name} is a LayerNorm of {len(module.normalized_shape)} axes, or without a scale or "
            "bias; normalise the last axis, with both",
        )
