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
from torch.utils.hooks import RemovableHandle

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
        reason = why_unknown(module)
        require(reason is None, f"module {name or 'model'} is {reason}")
        listen(module)
    return model


def listen(module: nn.Module) -> RemovableHandle | None:
    """Make one module, apart from those below it, note its uses.

    Returns:
      What ends it; None of a module that has nothing to note or notes it by itself.
    """
    hook = _HOOKS.get(type(module))
    return None if hook is None else module.register_forward_hook(hook)


def why_unknown(module: nn.Module) -> str | None:
    """What the module is that the clipping kernel does not know, and the remedy; None if it does.

    Says nothing of the modules below it.

    Example:
      >>> why_unknown(nn.Linear(2, 3)) is None
      True
      >>> print(why_unknown(nn.Embedding(3, 2, padding_idx=0)).partition(";")[0])
      a Embedding with padding_idx 0, which the clipping kernel does not know
    """
    kind = type(module).__name__
    own = list(module.parameters(recurse=False))
    if isinstance(module, _BatchNorm):
        return (
            f"a {kind}, which mixes the examples of a batch, so that no example has a gradient of "
            "its own; use nn.LayerNorm or nn.GroupNorm"
        )
    if type(module) is nn.LSTM:
        return (
            "a nn.LSTM, whose two biases would count twice; "
            "use fedsim.models.LSTM, which loads its state"
        )
    if len({p.requires_grad for p in own}) == 2 and type(module) in _HOOKS:
        return f"a {kind} with some parameters frozen; freeze all of them or none"
    if isinstance(module, nn.Embedding):
        for field in ("padding_idx", "max_norm"):
            found = getattr(module, field)
            if found is not None:
                return (
                    f"a {kind} with {field} {found}, which the clipping kernel does not know; "
                    "leave it out"
                )
    if isinstance(module, nn.LayerNorm):
        plain = module.elementwise_affine and module.bias is not None
        if not plain or len(module.normalized_shape) != 1:
            return (
                f"a {kind} of {len(module.normalized_shape)} axes, or without a scale or bias; "
                "normalise the last axis, with both"
            )
    if own and type(module) not in _HOOKS and not isinstance(module, LSTM):
        return (
            f"a {kind}, whose per-example gradients the clipping kernel does not know; build the "
            "model from nn.Linear, nn.Embedding, nn.LayerNorm and fedsim.models.LSTM"
        )
    return None


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
