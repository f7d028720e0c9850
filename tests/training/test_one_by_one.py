"""Claims about working off a batch example by example: the kernel's sum, of any model."""

import pytest
import torch

from fedsim import ConfigError
from fedsim.models import BiLSTMTagger
from fedsim.privacy import Automatic, Flat, PerLayer
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.training.dpsgd import DPSGD
from fedsim.training.kernel import clipped_gradient
from fedsim.training.one_by_one import one_by_one
from tests.training.kernel.naive_clipping import assert_same, naive

MODEL = BiLSTMTagger(rows=11, intents=3, slot_labels=4, embedding=4, hidden=3)
LAYERS = PerLayer(scales={"embedding": 0.6, "lstm": 0.5, "intent": 0.1, "slot": 0.2})


def parameters_of(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        n: 0.4 * torch.randn(p.shape, generator=draw, dtype=torch.float64)
        for n, p in MODEL.named_parameters()
    }


def batch_of(lengths, weight=None):
    draw = torch.Generator().manual_seed(1)
    lengths = torch.tensor(lengths, dtype=torch.int64)
    examples, tokens = len(lengths), 5
    slots = torch.randint(0, 4, (examples, tokens), generator=draw)
    return {
        "token_ids": torch.randint(1, 10, (examples, tokens, 2), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, 3, (examples,), generator=draw),
        "slots": slots.masked_fill(torch.arange(tokens) >= lengths.unsqueeze(1), -1),
        "weight": torch.tensor(weight or [1.0] * examples, dtype=torch.float64),
    }


@pytest.mark.parametrize("lengths", [[5], [4, 3, 1]])
@pytest.mark.parametrize("clip_norm", [0.5, torch.inf])
def test_sums_are_those_of_single_examples(lengths, clip_norm):
    parameters, batch = parameters_of(), batch_of(lengths)
    clipped = one_by_one(MODEL.losses, parameters, batch, clip_norm)
    assert_same(clipped, naive(MODEL.losses, parameters, batch, clip_norm), 1e-10)


@pytest.mark.parametrize("clipping", [Flat(), Automatic(), LAYERS])
def test_every_way_of_clipping_is_the_kernels(clipping):
    parameters, batch = parameters_of(), batch_of([5, 3, 2, 0], [1.0, 0.5, 1.0, 0.0])
    one, other = (
        way(MODEL.losses, parameters, batch, 0.3, factors=clipping.factors)
        for way in (one_by_one, clipped_gradient)
    )
    torch.testing.assert_close(one.factors, other.factors)
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, other.gradients[name], rtol=1e-6, atol=1e-8)


def test_a_batch_of_nobody_adds_nothing():
    there = {n: torch.ones_like(p) for n, p in parameters_of().items()}
    clipped = one_by_one(MODEL.losses, parameters_of(), batch_of([]), 1.0, into=there)
    assert len(clipped.norms) == 0
    assert all((g == 1).all() for g in clipped.gradients.values())


def test_an_example_that_is_not_finite_counts_as_zero():
    parameters, batch = parameters_of(), batch_of([3, 3, 2])
    wanted, _ = naive(
        MODEL.losses, parameters, batch | {"weight": torch.tensor([1.0, 0.0, 1.0])}, 1.0
    )
    parameters["embedding"][10] = torch.inf
    batch["token_ids"][1, 0, 0] = 10
    clipped = one_by_one(MODEL.losses, parameters, batch, 1.0)
    assert clipped.factors[1] == 0
    for name, gradient in clipped.gradients.items():
        torch.testing.assert_close(gradient, wanted[name])


def test_stacks_and_groups_are_refused():
    stack = {n: v.unsqueeze(0) for n, v in batch_of([2, 1]).items()}
    grouped = batch_of([2, 1]) | {"weight": torch.ones(5)}
    for batch in (stack, grouped):
        with pytest.raises(ConfigError, match="one device and one example at a time"):
            one_by_one(MODEL.losses, parameters_of(), batch, 1.0)
    with pytest.raises(ConfigError, match="which the clipping kernel alone computes"):
        DPSGD(
            losses=MODEL.losses,
            learning_rate=1.0,
            clip_norm=1.0,
            noise_multiplier=1.0,
            physical_size=4,
            clipping=MicroBatches(size=2),
            gradient=one_by_one,
        )
