"""Claims about every layer's rule, against a loop of single-example backward passes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_clipping import assert_devices_same, assert_same, naive, stacked

from fedsim.models.joint import _embed, linear
from fedsim.models.lstm import lstm_layer
from fedsim.models.packing import Packing
from fedsim.models.tape import Blocks
from fedsim.models.transformer import _norm
from fedsim.training.kernel import clipped_gradient

ROWS, HIDDEN = 7, 3
SIZES = st.tuples(*[st.integers(1, n) for n in (4, 9, 5, 5, 3)])
"""Examples, tokens, inputs, outputs, pieces: products direct and by Gram matrices."""


def summed(values):
    """Per-example losses of features (..., B, T, width): every entry counts differently."""
    tokens, width = values.shape[-2:]
    weights = torch.cos(torch.arange(tokens * width)).to(values.dtype).view(tokens, width)
    return (torch.sin(values * 1.3) * weights).sum((-2, -1))


def linear_losses(p, batch):
    x = batch["inputs"]
    rows = Blocks(*x.shape[-3:-1])
    return summed(linear(x.flatten(-3, -2), p["w"], p["b"], rows).unflatten(-2, x.shape[-3:-1]))


def whole_losses(p, batch):
    """A linear layer that sees each example as one row."""
    x = batch["inputs"][..., 0, :]
    return summed(linear(x, p["w"], p["b"], Blocks(x.shape[-2])).unsqueeze(-2))


def affine_losses(p, batch):
    values = batch["outputs"]
    rows = Blocks(*values.shape[-3:-1])
    normed = _norm({"n_scale": p["b"], "n_bias": p["c"]}, "n", values.flatten(-3, -2), rows)
    return summed(normed.unflatten(-2, values.shape[-3:-1]))


def embedding_losses(p, batch):
    ids = batch["ids"]
    rows = Blocks(*ids.shape[-3:-1])
    words = _embed(p["table"], ids.flatten(-3, -2), rows)
    return summed(words.unflatten(-2, ids.shape[-3:-1]))


def lstm_losses(p, batch):
    packing = Packing.of(batch["lengths"], batch["inputs"].shape[-2])
    words = packing.packed(batch["inputs"])
    states = lstm_layer(words, p["ih"], p["hh"], p["bias"], packing)
    states = states * packing.real.unsqueeze(-1)
    return summed(packing.padded(states))


LAYERS = {
    linear_losses: ("w", "b"),
    whole_losses: ("w", "b"),
    affine_losses: ("b", "c"),
    embedding_losses: ("table",),
    lstm_losses: ("ih", "hh", "bias"),
}


def drawn(layer, sizes, dtype, seed, tokens=None):
    """Parameters of a layer, and a ragged batch with repeated words and a null record."""
    examples, longest, inputs, outputs, pieces = sizes
    tokens = tokens or longest
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=dtype)

    parameters = {
        "w": normal(outputs, inputs),
        "b": normal(outputs),
        "c": normal(outputs),
        "table": normal(ROWS, inputs),
        "ih": normal(2, 4 * HIDDEN, inputs),
        "hh": normal(2, 4 * HIDDEN, HIDDEN),
        "bias": normal(2, 4 * HIDDEN),
    }
    lengths = torch.randint(1, longest + 1, (examples,), generator=draw)
    weight = (torch.rand(examples, generator=draw) > 0.2).to(dtype)
    return {name: parameters[name] for name in LAYERS[layer]}, {
        "inputs": normal(examples, tokens, inputs),
        "outputs": normal(examples, tokens, outputs),
        "ids": torch.randint(0, ROWS, (examples, tokens, pieces), generator=draw),
        "lengths": lengths.sort(descending=True).values,
        "weight": weight,
    }


EVERY_LAYER = pytest.mark.parametrize("layer", LAYERS, ids=lambda f: f.__name__.split("_")[0])
# Norms are rounded up, which shows in float32 where an example's words cancel out.
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["64", "32"]
)


@EVERY_LAYER
@DTYPES
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**31), clip_norm=st.sampled_from([0.5, 5.0, torch.inf]))
def test_norms_and_clipped_sums_are_those_of_single_examples(
    layer, dtype, tolerance, sizes, seed, clip_norm
):
    parameters, batch = drawn(layer, sizes, dtype, seed)
    clipped = clipped_gradient(layer, parameters, batch, clip_norm)
    assert_same(clipped, naive(layer, parameters, batch, clip_norm), tolerance)


@EVERY_LAYER
@DTYPES
@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**31), devices=st.integers(1, 3))
def test_a_stack_of_devices_is_the_devices_one_by_one(
    layer, dtype, tolerance, sizes, seed, devices
):
    each = [drawn(layer, sizes, dtype, seed + d, tokens=sizes[1]) for d in range(devices)]
    parameters, batches = zip(*each, strict=True)
    clipped = clipped_gradient(layer, stacked(parameters), stacked(batches), 2.0)
    assert_devices_same(layer, parameters, batches, 2.0, clipped, tolerance)


def test_a_word_of_many_equal_pieces_has_all_their_pairs():
    parameters, batch = drawn(embedding_losses, (2, 2, 3, 1, 17), torch.float64, 0)
    batch["ids"].fill_(3)
    clipped = clipped_gradient(embedding_losses, parameters, batch, 2.0)
    assert_same(clipped, naive(embedding_losses, parameters, batch, 2.0), 1e-10)


def test_as_many_devices_as_a_batch_has_places_are_still_a_stack():
    """One sentence of one word on each of two devices, in a batch two words wide."""
    each = [drawn(lstm_losses, (1, 1, 1, 1, 1), torch.float64, d, tokens=2) for d in range(2)]
    parameters, batches = zip(*each, strict=True)
    clipped = clipped_gradient(lstm_losses, stacked(parameters), stacked(batches), 2.0)
    assert_devices_same(lstm_losses, parameters, batches, 2.0, clipped, 1e-10)


@EVERY_LAYER
def test_an_empty_batch_sums_to_zero(layer):
    parameters, batch = drawn(layer, (2, 3, 4, 2, 1), torch.float32, 0)
    clipped = clipped_gradient(layer, parameters, {k: v[:0] for k, v in batch.items()}, 1.0)
    assert clipped.norms.shape == (0,)
    assert not any(g.any() for g in clipped.gradients.values())


def linear_outputs(p, batch):
    x = batch["inputs"]
    outputs = linear(x.flatten(-3, -2), p["w"], p["b"], Blocks(*x.shape[:2]))
    return (outputs.view(*x.shape[:2], -1) * batch["slopes"]).sum((-2, -1))


def embedding_outputs(p, batch):
    words = _embed(p["table"], batch["ids"].flatten(0, 1), Blocks(*batch["ids"].shape[:2]))
    return (words.view(*batch["slopes"].shape) * batch["slopes"]).sum((-2, -1))


@pytest.mark.parametrize("losses", [linear_outputs, embedding_outputs])
def test_words_that_cancel_out_do_not_hide_a_gradient_longer_than_the_clip_norm(losses):
    """The squares of what cancels are millions of times that of what is left."""
    draw = torch.Generator().manual_seed(0)
    examples, tokens, width = 50, 8, 32
    loud = torch.randn(examples, 1, width, generator=draw)
    signs = torch.tensor([1.0, -1.0]).repeat(tokens // 2).view(tokens, 1)
    batch = {
        "inputs": torch.randn(examples, 1, width, generator=draw).expand(-1, tokens, -1),
        "ids": torch.ones(examples, tokens, 1, dtype=torch.int64),
        "slopes": loud * signs + 3e-5 * torch.randn(examples, tokens, width, generator=draw),
    }
    shapes = {"w": (width, width), "b": (width,)}
    if losses is embedding_outputs:
        shapes = {"table": (3, width)}
    for b in range(examples):
        one = {n: v[b : b + 1] for n, v in batch.items()} | {"weight": torch.ones(1)}
        parameters = {n: torch.zeros(shape) for n, shape in shapes.items()}
        clipped = clipped_gradient(losses, parameters, one, clip_norm=1e-3)
        length = torch.cat([g.flatten() for g in clipped.gradients.values()]).norm()
        assert 0 < length <= 1.02e-3
