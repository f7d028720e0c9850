"""Groups on a tape: whatever reads it sees one example where there are several."""

import pytest
import torch

from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.models.grouping import grouped
from fedsim.models.tape import tape
from fedsim.training.kernel import clipped_gradient

SIZES = {"rows": 9, "intents": 3, "slot_labels": 4}
MODELS = {
    "bilstm": BiLSTMTagger(**SIZES, embedding=5, hidden=3),
    "transformer": TransformerTagger(**SIZES, embedding=8, layers=1, heads=2),
}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
GROUP = torch.tensor([2, 0, 3, 2, 0, 2])
"""Group 1 is empty, and example 2 belongs to none."""
SHARE = torch.tensor([0.2, 0.7, 0.0, 0.3, 0.3, 0.5], dtype=torch.float64)


def parameters_of(model):
    draw = torch.Generator().manual_seed(0)
    return {
        name: 0.4 * torch.randn(p.shape, generator=draw, dtype=torch.float64)
        for name, p in model.named_parameters()
    }


def batch_of(lengths):
    draw = torch.Generator().manual_seed(1)
    examples, tokens = len(lengths), 5
    lengths = torch.tensor(lengths)
    slots = torch.randint(0, 4, (examples, tokens), generator=draw)
    return {
        "token_ids": torch.randint(1, 9, (examples, tokens, 2), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, 3, (examples,), generator=draw),
        "slots": slots.masked_fill(torch.arange(tokens) >= lengths.unsqueeze(1), -1),
        "weight": torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64),
    }


@EVERY_MODEL
@pytest.mark.parametrize("lengths", [[5, 4, 4, 3, 1, 1], [5] * 6], ids=["ragged", "even"])
def test_norms_are_those_of_the_gradients_of_group_losses(model, lengths):
    parameters, batch = parameters_of(model), batch_of(lengths)
    losses = grouped(model.losses, GROUP, SHARE, 3)
    clipped = clipped_gradient(losses, parameters, batch, torch.inf)
    own = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    each = losses(own, batch)
    for number, loss in enumerate(each):
        gradients = torch.autograd.grad(loss, list(own.values()), retain_graph=True)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        torch.testing.assert_close(clipped.norms[number], norm, rtol=1e-10, atol=1e-12)
    whole = torch.autograd.grad(each[:3].sum(), list(own.values()))
    for name, wanted in zip(own, whole, strict=True):
        torch.testing.assert_close(clipped.gradients[name], wanted, rtol=1e-10, atol=1e-10)


@EVERY_MODEL
def test_losses_are_the_same_with_a_tape_and_without(model):
    parameters, batch = parameters_of(model), batch_of([5, 4, 4, 3, 1, 1])
    losses = grouped(model.losses, GROUP, SHARE, 3)
    with tape() as uses:
        taped = losses(parameters, batch)
    each = model.losses(parameters, batch)
    wanted = [sum(SHARE[b] * each[b] for b in range(6) if GROUP[b] == g) for g in range(4)]
    assert len(uses) >= 4
    torch.testing.assert_close(
        losses(parameters, batch), torch.stack(list(map(torch.as_tensor, wanted))).double()
    )
    torch.testing.assert_close(taped, losses(parameters, batch))
