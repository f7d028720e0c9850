"""A small tagger, its batches, and clipped sums the slow and obvious way."""

import torch

from fedsim.models import BiLSTMTagger
from fedsim.training.kernel import clipped_gradient

ROWS, INTENTS, LABELS, TOKENS = 9, 3, 4, 4
MODEL = BiLSTMTagger(rows=ROWS, intents=INTENTS, slot_labels=LABELS, embedding=4, hidden=2)
NAMES = [name for name, _ in MODEL.named_parameters()]
LAYERS = ("embedding", "lstm", "intent", "slot")


def parameters_of(seed=0, scale=0.5):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(p.shape, generator=draw, dtype=torch.float64)
        for name, p in MODEL.named_parameters()
    }


def batch_of(examples=6, seed=0, size=6.0):
    """Ragged, with a null record and places in a device's records, longest first."""
    draw = torch.Generator().manual_seed(1000 + seed)
    lengths = torch.randint(1, TOKENS + 1, (examples,), generator=draw)
    slots = torch.randint(0, LABELS, (examples, TOKENS), generator=draw)
    weight = torch.ones(examples, dtype=torch.float64)
    weight[1:2] = 0.0
    lengths = lengths.sort(descending=True).values
    return {
        "token_ids": torch.randint(1, ROWS, (examples, TOKENS, 2), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, INTENTS, (examples,), generator=draw),
        "slots": slots.masked_fill(torch.arange(TOKENS) >= lengths.unsqueeze(1), -1),
        "weight": weight,
        "record": torch.randperm(40, generator=draw)[:examples],
        "size": torch.tensor(size, dtype=torch.float64),
    }


def stacked(values):
    """Dicts of tensors, one a device -> one dict with a leading device axis."""
    return {name: torch.stack([v[name] for v in values]) for name in values[0]}


def gradients_of(parameters, batch):
    """Every example's gradient by a backward pass of its own."""
    found = []
    for b in range(len(batch["weight"])):
        one = {k: v[b : b + 1] if v.dim() else v for k, v in batch.items()}
        own = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        each = torch.autograd.grad(MODEL.losses(own, one).sum(), list(own.values()))
        found.append(dict(zip(own, each, strict=True)))
    return found


def length(gradient, names=None):
    return torch.cat([g.flatten() for n, g in gradient.items() if n in (names or gradient)]).norm()


def layer_of(name):
    return next(layer for layer in LAYERS if name.startswith(layer))


def summed(clipping, parameters, batch, clip_norm=1.0, key=0, most=100):
    """The sum that `clipping` makes, and the factors of its terms."""
    total, factors = {name: torch.zeros_like(p) for name, p in parameters.items()}, []
    for terms in clipping.terms(MODEL.losses, batch, torch.tensor(key), most):
        clipped = clipped_gradient(
            terms.losses, parameters, terms.batch, clip_norm, into=total, factors=clipping.factors
        )
        factors.append(clipped.factors)
    return total, torch.cat(factors, dim=-1)


def mean_of(gradients, members):
    return {n: torch.stack([gradients[b][n] for b in members]).mean(0) for n in gradients[0]}


def assert_close(one, other, tolerance=1e-10):
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


def moved(one, other):
    """Distance between two sums."""
    return float(length({n: one[n] - other[n] for n in one}))


def without(batch, b):
    """The batch in the neighbouring world: example b is a null record in the same place."""
    weight = batch["weight"].clone()
    weight[b] = 0.0
    return batch | {"weight": weight}
