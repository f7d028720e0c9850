"""Has every example a gradient of its own in this model, and does the kernel get it right?

`faults` reads a torch module, layer by layer, before anything runs. `require_exact` runs a model
a few times on a small batch: without clipping the kernel's sum must be the ordinary gradient of the
summed loss, and who else is in the batch must not change an example's loss or gradient.
`require_exact_tagger` brings the batch, and asks no more of layers that the kernel does not know
than that examples keep apart. All of it takes milliseconds on small models.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.errors import ConfigError, require
from fedsim.models.joint import Batch, JointTagger, Parameters
from fedsim.models.modules import why_unknown
from fedsim.models.tape import Use, tape
from fedsim.privacy.rounding import Precision
from fedsim.training.kernel import clipped_gradient
from fedsim.training.precision import in_precision
from fedsim.training.procedures import Losses


def faults(model: nn.Module) -> list[str]:
    """Every layer of a torch module that the clipping kernel would get wrong, and the remedy.

    Example:
      >>> for fault in faults(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1))):
      ...     print(fault.partition(",")[0])
      module 1 is a Conv1d
    """
    mixing = mixing_faults(model)
    unknown = (_named(name, why_unknown(module)) for name, module in model.named_modules())
    return [*mixing, *(each for each in unknown if each and each not in mixing)]


def mixing_faults(model: nn.Module) -> list[str]:
    """The layers among them whose gradients no method gets right, and the remedy."""
    modules = dict(model.named_modules())
    found = [
        _named(name, why_unknown(module))
        for name, module in modules.items()
        if isinstance(module, _BatchNorm) or type(module) is nn.LSTM
    ]
    owners: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(p), []).append(name)
    tied = [
        f"parameters {' and '.join(names)} are one tensor, whose gradient norm is not that of its "
        "uses added up; give each layer a parameter of its own"
        for names in map(_innermost, owners.values())
        if len(names) > 1
    ]
    return [*(each for each in found if each), *tied]


def require_exact(losses: Losses, parameters: Parameters, batch: Batch) -> None:
    """Refuse a model whose per-example gradients the kernel would get wrong.

    Args:
      losses: per-example losses, (examples,); the same at every call.
      parameters: where gradients are taken, away from special points such as all zero.
      batch: at least two examples, first axis examples, as `losses` wants it; with `weight` ones.

    Raises:
      ConfigError: losses are not one an example; a parameter is used by no layer the kernel knows,
        or twice; a layer does not see every example; the loss or a layer mixes examples; the sums
        disagree. It names the first.

    Example:
      >>> from fedsim.models import BiLSTMTagger
      >>> model = BiLSTMTagger(rows=9, intents=2, slot_labels=3, embedding=4, hidden=2)
      >>> require_exact_tagger(model)
    """
    parameters = {name: p.detach() for name, p in parameters.items()}
    _require_one_each(losses, parameters, batch)
    clipped = clipped_gradient(losses, parameters, batch, torch.inf)
    _require_apart(losses, parameters, batch)
    wanted = _summed_gradient(losses, parameters, batch)
    for name, gradient in wanted.items():
        require(
            _near(clipped.gradients[name], gradient),
            f"the gradient of parameter {name} is not the sum of what its layer notes; use it in "
            "that layer alone, and nowhere in the model beside it",
        )


def require_exact_tagger(model: JointTagger) -> None:
    """Refuse a tagger, of any sizes, whose examples' gradients would be wrong.

    It runs at random parameters on three sentences. A model with layers that the kernel does not
    know is worked off example by example (`fedsim.training.one_by_one`), and need only keep apart
    what the loss is made of.

    Raises:
      ConfigError: a module mixes examples, parameters are tied, or as `require_exact`.
    """
    found = mixing_faults(model)
    require(not found, "; ".join(found))
    parameters, batch = _case(model)
    _require_one_each(model.losses, parameters, batch)
    if _unknown(model.losses, parameters, batch):
        _require_own(model.losses, parameters, *_companies(batch))
    else:
        require_exact(model.losses, parameters, batch)


def require_precision(model: JointTagger, precision: Precision) -> None:
    """Refuse a tagger that cannot be passed in a precision; it runs on three sentences.

    Raises:
      ConfigError: a layer fails on it, or losses come out in less than float32.

    Example:
      >>> from fedsim.models import BiLSTMTagger
      >>> model = BiLSTMTagger(rows=9, intents=2, slot_labels=3, embedding=4, hidden=2)
      >>> require_precision(model, "bfloat16")
    """
    if precision == "float32":
        return
    parameters, batch = _case(model)
    try:
        with torch.no_grad():
            found = in_precision(model.losses, precision)(parameters, batch).dtype
    except RuntimeError as error:
        raise ConfigError(
            f"precision is {precision}, in which the model does not run ({error}); choose float32, "
            "or make every tensor of the model in its parameters' type"
        ) from error
    require(
        found == torch.float32,
        f"precision is {precision}, and the model's losses are {found}; make them from float32 "
        "logits",
    )


def unknown_parameters(model: JointTagger) -> list[str]:
    """Names of a tagger's parameters that no layer the clipping kernel knows uses.

    Example:
      >>> from fedsim.models import BiLSTMTagger
      >>> unknown_parameters(BiLSTMTagger(rows=9, intents=2, slot_labels=3, embedding=4, hidden=2))
      []
    """
    return _unknown(model.losses, *_case(model))


def _case(model: JointTagger) -> tuple[Parameters, Batch]:
    """Random parameters of a tagger, and three sentences for it."""
    draw = torch.Generator().manual_seed(0)
    parameters = {
        name: 0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
        for name, p in model.named_parameters()
    }
    lengths = torch.tensor([4, 3, 1])
    inside = torch.arange(4) < lengths.unsqueeze(1)
    rows, intents, labels = model.sizes
    slots = torch.randint(0, labels, (3, 4), generator=draw)
    return parameters, {
        "token_ids": torch.randint(0, rows, (3, 4, 2), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, intents, (3,), generator=draw),
        "slots": slots.masked_fill(~inside, -1),
        "weight": torch.ones(3, dtype=next(model.parameters()).dtype),
    }


def _require_one_each(losses: Losses, parameters: Parameters, batch: Batch) -> None:
    with torch.no_grad():
        found, wanted = tuple(losses(parameters, batch).shape), tuple(batch["weight"].shape)
    require(
        found == wanted,
        f"losses of {wanted[0]} examples have the shape {found}; give each example a loss of its "
        f"own, in the shape {wanted} (no mean or sum over the batch)",
    )


def _unknown(losses: Losses, parameters: Parameters, batch: Batch) -> list[str]:
    own = {name: p.detach() for name, p in parameters.items()}
    with torch.enable_grad(), tape() as uses:
        losses(own, batch)
    known = {id(p) for use in uses for p in use.parameters}
    return [name for name, p in own.items() if id(p) not in known]


def _innermost(names: list[str]) -> list[str]:
    """Without the names that a module gives its children's parameters, as Opacus's LSTM does."""
    owner = {name: name.rpartition(".")[0] for name in names}
    return [n for n in names if not any(_within(owner[other], owner[n]) for other in names)]


def _within(inner: str, outer: str) -> bool:
    return inner != outer and (not outer or inner.startswith(f"{outer}."))


def _named(name: str, reason: str | None) -> str | None:
    return reason and f"module {name or 'model'} is {reason}"


def _companies(batch: Batch) -> tuple[Batch, Batch]:
    """The first example among as many as there are, and among one more, all of them others."""
    examples = len(batch["weight"])
    return _taken(batch, [0] + [1] * (examples - 1)), _taken(batch, [0] + [examples - 1] * examples)


def _require_apart(losses: Losses, parameters: Parameters, batch: Batch) -> None:
    """The first example must have the same inputs and gradients whoever else is in the batch."""
    company = _companies(batch)
    (uses, alone), (others, beside) = (_first(losses, parameters, each) for each in company)
    names = {id(p): name for name, p in parameters.items()}
    for one, other in zip(uses, others, strict=True):
        where = names.get(id(one.parameters[0]), "?")
        require(
            _near(_of_first(one, one.inputs), _of_first(other, other.inputs)),
            f"the input of the layer with parameter {where} changes with who else is in the batch; "
            "replace what mixes examples before it (batch norm: use layer norm)",
        )
    for one, mine, yours in zip(uses, alone, beside, strict=True):
        where = names.get(id(one.parameters[0]), "?")
        require(
            _near(mine, yours),
            f"an example's gradient at the layer with parameter {where} changes with who else is "
            "in the batch; give each example a loss of its own (a mean over its own words, not "
            "over the batch)",
        )
    _require_own(losses, parameters, *company)


def _require_own(losses: Losses, parameters: Parameters, one: Batch, other: Batch) -> None:
    """The first example must have the same loss, and the same gradient of it, in both batches."""
    mine, yours = (_loss_and_gradient(losses, parameters, batch) for batch in (one, other))
    for name, here, there in zip(["", *parameters], mine, yours, strict=True):
        require(
            _near(here, there),
            f"an example's {f'gradient of parameter {name}' if name else 'loss'} changes with who "
            "else is in the batch; give each example a loss of its own (a mean over its own words, "
            "not over the batch), and replace what mixes examples (batch norm: use layer norm)",
        )


def _loss_and_gradient(losses: Losses, parameters: Parameters, batch: Batch) -> list[Tensor]:
    """Loss of the first example and its gradient by every parameter."""
    own = [p.clone().requires_grad_() for p in parameters.values()]
    with torch.enable_grad():
        loss = losses(dict(zip(parameters, own, strict=True)), batch)[0]
    return [loss.detach(), *torch.autograd.grad(loss, own, materialize_grads=True)]


def _first(losses: Losses, parameters: Parameters, batch: Batch) -> tuple[list[Use], list[Tensor]]:
    """Uses, and the gradient of the first example's loss at their outputs, for that example."""
    with torch.enable_grad(), tape() as uses:
        loss = losses(parameters, batch)[0]
    outputs = [use.output for use in uses]
    slopes = torch.autograd.grad(loss, outputs, materialize_grads=True)
    return uses, [_of_first(use, slope) for use, slope in zip(uses, slopes, strict=True)]


def _of_first(use: Use, rows: Tensor) -> Tensor:
    """(..., rows, features) -> (..., tokens, features) of the first example."""
    return use.rows.by_example(rows.detach().double()).select(-3, 0)


def _taken(batch: Batch, rows: Sequence[int]) -> dict[str, Tensor]:
    return {name: v[rows] if v.dim() else v for name, v in batch.items()}


def _summed_gradient(losses: Losses, parameters: Parameters, batch: Batch) -> Parameters:
    own = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        total = losses(own, batch).sum()
    gradients = torch.autograd.grad(total, list(own.values()), materialize_grads=True)
    return dict(zip(own, gradients, strict=True))


def _near(one: Tensor, other: Tensor) -> bool:
    """Up to rounding in single precision; what is refused is wrong by far more."""
    if one.shape != other.shape:
        return False
    away, size = (torch.linalg.vector_norm(v) for v in (one - other, other))
    return bool(away <= 1e-3 * size + 1e-6)
