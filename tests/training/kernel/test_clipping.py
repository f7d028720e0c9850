"""Claims about clipped gradients of whole models, against a loop over single examples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_clipping import assert_devices_same, assert_same, naive, stacked

from fedsim import ConfigError
from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.models.joint import linear
from fedsim.models.tape import Blocks, tape
from fedsim.training.kernel import clipped_gradient

ROWS, INTENTS, SLOT_LABELS = 11, 3, 4
SIZES = {"rows": ROWS, "intents": INTENTS, "slot_labels": SLOT_LABELS}
MODELS = {
    "bilstm": BiLSTMTagger(**SIZES, embedding=5, hidden=3),
    "transformer": TransformerTagger(**SIZES, embedding=8, layers=2, heads=2),
}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["64", "32"]
)


def parameters_of(model, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: 0.4 * torch.randn(p.shape, generator=draw, dtype=dtype)
        for name, p in model.named_parameters()
    }


def batch_of(lengths, dtype=torch.float32, seed=0, tokens=None, pieces=2):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(sorted(lengths, reverse=True), dtype=torch.int64)
    examples, tokens = len(lengths), tokens or int(max(lengths, default=0))
    slots = torch.randint(0, SLOT_LABELS, (examples, tokens), generator=draw)
    return {
        "token_ids": torch.randint(1, ROWS, (examples, tokens, pieces), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, INTENTS, (examples,), generator=draw),
        "slots": slots.masked_fill(torch.arange(tokens) >= lengths.unsqueeze(1), -1),
        "weight": (torch.rand(examples, generator=draw) > 0.2).to(dtype),
    }


@EVERY_MODEL
@DTYPES
@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    clip_norm=st.sampled_from([0.3, 3.0, 30.0]),
)
def test_norms_and_clipped_sums_are_those_of_single_examples(
    model, dtype, tolerance, lengths, seed, clip_norm
):
    parameters, batch = parameters_of(model, dtype, seed), batch_of(lengths, dtype, seed)
    clipped = clipped_gradient(model.losses, parameters, batch, clip_norm)
    assert_same(clipped, naive(model.losses, parameters, batch, clip_norm), tolerance)


@EVERY_MODEL
@DTYPES
@pytest.mark.parametrize("rows", [[(3, 1, 6), (2, 2, 1), (5, 4, 4)], [(1,), (1,)], [(4, 4)]])
def test_a_stack_of_devices_is_the_devices_one_by_one(model, dtype, tolerance, rows):
    tokens = max(map(max, rows))
    batches = [batch_of(lengths, dtype, d, tokens) for d, lengths in enumerate(rows)]
    parameters = [parameters_of(model, dtype, d) for d in range(len(rows))]
    clipped = clipped_gradient(model.losses, stacked(parameters), stacked(batches), 2.0)
    assert_devices_same(model.losses, parameters, batches, 2.0, clipped, tolerance)


@EVERY_MODEL
def test_without_clipping_the_sum_is_the_ordinary_gradient(model):
    parameters, batch = parameters_of(model, torch.float64), batch_of([5, 3, 1], torch.float64)
    own = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    (model.losses(own, batch) * batch["weight"]).sum().backward()
    clipped = clipped_gradient(model.losses, parameters, batch, torch.inf)
    for name, p in own.items():
        torch.testing.assert_close(clipped.gradients[name], p.grad, rtol=1e-10, atol=1e-10)


@EVERY_MODEL
def test_what_fills_a_batch_up_changes_nothing(model):
    """Examples without words and of weight 0, which a sampler adds to reach a fixed size."""
    parameters = parameters_of(model, torch.float64)
    full = batch_of([4, 2, 0, 0], torch.float64)
    full["weight"] = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    short = {name: value[:2] for name, value in full.items()}
    clipped = clipped_gradient(model.losses, parameters, full, 1.0)
    wanted = clipped_gradient(model.losses, parameters, short, 1.0)
    for name in parameters:
        torch.testing.assert_close(clipped.gradients[name], wanted.gradients[name])


@EVERY_MODEL
@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_a_batch_of_nobody_sums_to_zero(model, lengths):
    batch = batch_of(lengths, tokens=3)
    batch["weight"] = torch.zeros(len(lengths))
    clipped = clipped_gradient(model.losses, parameters_of(model), batch, 1.0)
    assert clipped.losses.shape == clipped.norms.shape == (len(lengths),)
    assert not any(g.any() for g in clipped.gradients.values())


@EVERY_MODEL
@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 3e38])
def test_an_example_that_is_not_finite_counts_as_zero(model, bad):
    parameters, batch = parameters_of(model), batch_of([3, 3, 2])
    batch["token_ids"] = batch["token_ids"].clamp(max=ROWS - 2)
    batch["weight"] = torch.ones(3)
    parameters["embedding"][ROWS - 1] = bad
    wanted = clipped_gradient(model.losses, parameters, batch | {"weight": _one_less(1)}, 1.0)
    batch["token_ids"][1, 0, 0] = ROWS - 1
    clipped = clipped_gradient(model.losses, parameters, batch, 1.0)
    assert clipped.factors[1] == 0 and (clipped.factors[[0, 2]] > 0).all()
    for name in parameters:
        torch.testing.assert_close(clipped.gradients[name], wanted.gradients[name])


def _one_less(gone):
    weight = torch.ones(3)
    weight[gone] = 0
    return weight


@EVERY_MODEL
def test_no_example_contributes_more_than_the_clip_norm(model):
    parameters = parameters_of(model, torch.float64)
    for seed in range(5):
        one = batch_of([4], torch.float64, seed) | {"weight": torch.ones(1, dtype=torch.float64)}
        clipped = clipped_gradient(model.losses, parameters, one, 0.25)
        length = torch.cat([g.flatten() for g in clipped.gradients.values()]).norm()
        torch.testing.assert_close(length, torch.tensor(0.25, dtype=torch.float64))


@EVERY_MODEL
def test_the_sum_is_added_to_what_is_there(model):
    parameters, batch = parameters_of(model), batch_of([3, 2])
    alone = clipped_gradient(model.losses, parameters, batch, 1.0)
    there = {name: torch.full_like(p, 0.5) for name, p in parameters.items()}
    clipped = clipped_gradient(model.losses, parameters, batch, 1.0, into=there)
    assert clipped.gradients is there
    for name in parameters:
        torch.testing.assert_close(there[name], alone.gradients[name] + 0.5)


@EVERY_MODEL
def test_half_precision_is_summed_in_single(model):
    batch = batch_of([4, 4, 2])
    single = parameters_of(model)
    half = {name: p.bfloat16() for name, p in single.items()}
    clipped = clipped_gradient(model.losses, half, batch, 1.0)
    exact = clipped_gradient(model.losses, {n: p.float() for n, p in half.items()}, batch, 1.0)
    assert clipped.norms.dtype == torch.float32
    torch.testing.assert_close(clipped.norms, exact.norms, rtol=0.1, atol=0.0)
    assert all(g.dtype == torch.float32 for g in clipped.gradients.values())


@EVERY_MODEL
def test_parameters_and_batch_are_left_alone(model):
    parameters, batch = parameters_of(model), batch_of([3, 2])
    before = {name: v.clone() for name, v in (parameters | batch).items()}
    clipped_gradient(model.losses, parameters, batch, 1.0)
    for name, value in (parameters | batch).items():
        assert torch.equal(value, before[name])
        assert not value.requires_grad


def test_ordinary_training_notes_nothing():
    model = MODELS["bilstm"]
    with tape() as uses:
        pass
    model.losses(parameters_of(model), batch_of([2]))
    assert uses == []


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        (lambda p, b: (b["x"] @ p["w"]).sum(-1), "parameter w is used by 0 layers"),
        (lambda p, b: twice(p, b), "parameter w is used by 2 layers"),
    ],
    ids=["unknown layer", "tied weights"],
)
def test_what_the_rules_would_get_wrong_is_refused(losses, what):
    batch = {"x": torch.ones(2, 3), "weight": torch.ones(2)}
    with pytest.raises(ConfigError, match=what):
        clipped_gradient(losses, {"w": torch.ones(3, 3), "b": torch.ones(3)}, batch, 1.0)


def twice(p, batch):
    once = linear(batch["x"], p["w"], p["b"], Blocks(2))
    return linear(once, p["w"], p["b"], Blocks(2)).sum(-1)
