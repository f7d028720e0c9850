"""How is a model or kernel caught whose clipped sum is not one of clipped examples?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedsim.errors import ConfigError
from fedsim.models import BiLSTMTagger
from fedsim.training.kernel import clipped_gradient
from fedsim.training.validator import require_exact_tagger
from tests.training.kernel.naive_clipping import naive

SIZES = {"rows": 9, "intents": 3, "slot_labels": 4, "embedding": 4, "hidden": 2}
CLIP_NORM = 8.0


@dataclass(frozen=True, kw_only=True)
class ClippedModel:
    """A tagger, and what sums its examples' clipped gradients.

    Attributes:
      model: whose losses are trained.
      kernel: `clipped_gradient`, or a broken one.
    """

    model: BiLSTMTagger
    kernel: Callable = clipped_gradient


def per_example_equality(clipped: ClippedModel) -> str | None:
    """Against a backward pass for each example alone, on ragged sentences of a few lengths."""
    parameters, batch = _parameters(clipped.model), _batch()
    found = clipped.kernel(clipped.model.losses, parameters, batch, CLIP_NORM).gradients
    wanted, norms = naive(clipped.model.losses, parameters, batch, CLIP_NORM)
    assert (norms > CLIP_NORM).any()
    away = max(float((found[name] - g).norm() / g.norm()) for name, g in wanted.items())
    return None if away < 1e-9 else f"the clipped sum is {away:.2%} away from one by one"


def one_example_within_the_clip_norm(clipped: ClippedModel) -> str | None:
    """The sensitivity search of a tagger: each example alone adds no more than the clip norm."""
    parameters, batch = _parameters(clipped.model), _batch()
    longest = 0.0
    for b in range(len(batch["weight"])):
        one = {name: value[b : b + 1] for name, value in batch.items()}
        sums = clipped.kernel(clipped.model.losses, parameters, one, CLIP_NORM).gradients
        longest = max(longest, float(torch.cat([g.flatten() for g in sums.values()]).norm()))
    assert longest > 0.99 * CLIP_NORM
    if longest <= CLIP_NORM * (1 + 1e-9):
        return None
    return f"one example adds {longest:.3g}, and the clip norm is {CLIP_NORM}"


def validator(clipped: ClippedModel) -> str | None:
    """What fedsim itself says of the model before it trains."""
    try:
        require_exact_tagger(clipped.model)
    except ConfigError as refusal:
        return str(refusal)
    return None


def _parameters(model: BiLSTMTagger) -> dict[str, torch.Tensor]:
    """Small inputs before large heads: biases then have a good part in every gradient."""
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(p.shape, generator=draw, dtype=torch.float64)
        * (3.0 if "weight" in name else 0.1)
        for name, p in model.named_parameters()
    }


def _batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.tensor([4, 3, 3, 1])
    slots = torch.randint(0, 4, (4, 4), generator=draw)
    return {
        "token_ids": torch.randint(1, 9, (4, 4, 2), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, 3, (4,), generator=draw),
        "slots": slots.masked_fill(torch.arange(4) >= lengths.unsqueeze(1), -1),
        "weight": torch.ones(4, dtype=torch.float64),
    }
