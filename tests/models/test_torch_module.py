"""A torch module as a tagger: its losses are those of its own forward pass, stacked or not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.errors import ConfigError
from fedsim.models import ModuleTagger
from fedsim.models.modules import noting
from fedsim.training.kernel import clipped_gradient

ROWS, INTENTS, LABELS = 30, 3, 4


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(ROWS, 6)
        self.intent, self.slot = nn.Linear(6, INTENTS), nn.Linear(6, LABELS)

    def forward(self, token_ids, lengths):
        inside = torch.arange(token_ids.shape[1]) < lengths.unsqueeze(-1)
        words = self.words(token_ids).sum(-2) * inside.unsqueeze(-1)
        return self.intent(words.sum(1) / lengths.unsqueeze(-1)), self.slot(words)


def bag(seed=0):
    module, draw = Bag(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(generator=draw)
    return module


def batch_of(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    size = (*lengths.shape, 5)
    inside = torch.arange(5) < lengths.unsqueeze(-1)
    slots = torch.randint(0, LABELS, size, generator=draw).masked_fill(~inside, -1)
    return {
        "token_ids": torch.randint(0, ROWS, (*size, 2), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, INTENTS, lengths.shape, generator=draw),
        "slots": slots,
        "weight": (lengths > 0).float(),
    }


def parameters_of(tagger):
    return {name: p.detach() for name, p in tagger.named_parameters()}


def test_losses_are_per_example_and_those_of_the_module():
    tagger, batch = ModuleTagger(bag()), batch_of([5, 3, 1])
    intents, slots = tagger.module(batch["token_ids"], batch["lengths"])
    for k, length in enumerate(batch["lengths"].tolist()):
        words = F.cross_entropy(slots[k, :length], batch["slots"][k, :length])
        wanted = F.cross_entropy(intents[k], batch["intents"][k]) + words
        torch.testing.assert_close(tagger(batch)[k], wanted)
    said = tagger.predict(parameters_of(tagger), batch)
    assert torch.equal(said.intents, intents.argmax(-1))
    assert torch.equal(said.slots >= 0, batch["slots"] >= 0)


def test_a_stack_has_the_losses_and_gradients_of_its_devices():
    own = [parameters_of(ModuleTagger(bag(seed))) for seed in (1, 2)]
    tagger, batch = ModuleTagger(bag()), batch_of([[5, 3, 1], [4, 2, 0]])
    stack = {n: torch.stack([p[n] for p in own]).requires_grad_() for n in own[0]}
    together = tagger.losses(stack, batch)
    gradients = torch.autograd.grad((together * batch["weight"]).sum(), list(stack.values()))
    for d, parameters in enumerate(own):
        alone = {n: p.clone().requires_grad_() for n, p in parameters.items()}
        one = {name: value[d] for name, value in batch.items()}
        losses = tagger.losses(alone, one)
        torch.testing.assert_close(together[d], losses)
        wanted = torch.autograd.grad((losses * one["weight"]).sum(), list(alone.values()))
        for gradient, own_gradient in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient[d], own_gradient)
            assert gradient[d].isfinite().all()


def test_a_module_that_notes_its_layers_is_clipped_exactly():
    tagger, batch = ModuleTagger(noting(bag())), batch_of([5, 3, 1])
    own = parameters_of(tagger)
    clipped = clipped_gradient(tagger.losses, own, batch, torch.inf)
    loose = {n: p.clone().requires_grad_() for n, p in own.items()}
    wanted = torch.autograd.grad(tagger.losses(loose, batch).sum(), list(loose.values()))
    for name, gradient in zip(loose, wanted, strict=True):
        torch.testing.assert_close(clipped.gradients[name], gradient)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.BatchNorm1d(6), "module 1 is a BatchNorm1d, which mixes the examples"),
        (nn.Dropout(0.1), "module 1 is a Dropout with p 0.1, which draws from torch's global"),
    ],
)
def test_layers_that_mix_examples_or_draw_on_their_own_are_refused(layer, said):
    with pytest.raises(ConfigError, match=said):
        ModuleTagger(nn.Sequential(bag(), layer))
