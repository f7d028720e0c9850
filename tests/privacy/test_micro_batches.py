"""Claims about micro-batches: sums against a loop, who shares one, and that 2 C is reached."""

import numpy as np
import pytest
import torch
from clipped_sums import (
    MODEL,
    assert_close,
    batch_of,
    gradients_of,
    length,
    mean_of,
    moved,
    parameters_of,
    stacked,
    summed,
    without,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedsim.errors import ConfigError
from fedsim.models.joint import linear
from fedsim.models.tape import Blocks
from fedsim.privacy import Automatic, Flat, PerLayer
from fedsim.privacy.micro_batches import MicroBatches, slots
from fedsim.training.kernel import clipped_gradient

SEEDS = st.integers(0, 2**31)
SCALES = {"embedding": 0.5, "lstm": 1.5, "intent": 0.2, "slot": 0.7}
WITHIN = {"flat": Flat(), "automatic": Automatic(), "per layer": PerLayer(scales=SCALES)}


def slots_of(batch, size, key):
    count = max(1, int(np.ceil(float(batch["size"]) / size)))
    return slots(batch["record"], torch.tensor(key), torch.tensor([count])).tolist(), count


@settings(max_examples=20, deadline=None)
@given(
    seed=SEEDS,
    examples=st.integers(0, 7),
    size=st.integers(1, 8),
    clip_norm=st.sampled_from([0.05, 0.5, 50.0]),
    most=st.sampled_from([1, 3, 100]),
)
def test_the_sum_is_that_of_a_loop_over_micro_batches(seed, examples, size, clip_norm, most):
    parameters, batch = parameters_of(seed), batch_of(examples, seed)
    gradients = gradients_of(parameters, batch)
    slot, count = slots_of(batch, size, seed)
    wanted = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for number in range(count):
        members = [b for b, s in enumerate(slot) if s == number and batch["weight"][b] > 0]
        if members:
            mean = mean_of(gradients, members)
            factor = min(1.0, clip_norm / length(mean))
            for name, g in mean.items():
                wanted[name] += factor * g
    clipping = MicroBatches(size=size)
    assert_close(summed(clipping, parameters, batch, clip_norm, seed, most)[0], wanted)


@pytest.mark.parametrize("examples", [1, 5])
def test_a_stack_of_devices_is_the_devices_one_by_one(examples):
    """Of different expected sizes, hence of different numbers of micro-batches."""
    clipping = MicroBatches(size=2)
    parameters = [parameters_of(d) for d in range(3)]
    batches = [batch_of(examples, d, size) for d, size in enumerate([6.0, 2.0, 3.0])]
    together, _ = summed(clipping, stacked(parameters), stacked(batches), 0.5, key=9)
    for d, (own, batch) in enumerate(zip(parameters, batches, strict=True)):
        alone, _ = summed(clipping, own, batch, 0.5, key=9)
        assert_close({name: g[d] for name, g in together.items()}, alone)


@pytest.mark.parametrize("within", WITHIN.values(), ids=WITHIN)
@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    b=st.integers(0, 5),
    scale=st.sampled_from([1e-3, 0.5, 5.0, 50.0]),
    clip_norm=st.sampled_from([1e-4, 0.1, 1.0, 100.0]),
)
def test_a_zeroed_record_moves_the_sum_by_no_more_than_the_sensitivity(
    within, seed, b, scale, clip_norm
):
    clipping = MicroBatches(size=2, within=within)
    parameters, batch = parameters_of(seed, scale), batch_of(6, seed)
    here = summed(clipping, parameters, batch, clip_norm, seed)[0]
    there = summed(clipping, parameters, without(batch, b), clip_norm, seed)[0]
    assert moved(here, there) <= clipping.sensitivity * clip_norm * (1 + 1e-9)


def test_one_record_can_turn_a_clipped_mean_around():
    """2 C within 1 %: a record that dominates its micro-batch and points the other way."""

    def losses(parameters, batch):
        rows = Blocks(batch["x"].shape[0])
        return linear(batch["x"], parameters["w"], parameters["b"], rows).squeeze(-1)

    parameters = {"w": torch.zeros(1, 2), "b": torch.zeros(1)}
    batch = {
        # Inputs (x, 0) and a bias gradient of 1: long ones make the bias negligible.
        "x": torch.tensor([[1e4, 0.0], [-1e5, 0.0]]),
        "weight": torch.ones(2),
        "record": torch.tensor([0, 1]),
        "size": torch.tensor(2.0),
    }
    clipping = MicroBatches(size=2)
    sums = []
    for world in (batch, without(batch, 1)):
        (terms,) = clipping.terms(losses, world, torch.tensor(0), 100)
        sums.append(clipped_gradient(terms.losses, parameters, terms.batch, 1.0).gradients)
    assert clipping.sensitivity == 2.0
    assert moved(*sums) == pytest.approx(2.0, rel=0.01)


def test_nobody_elses_micro_batch_depends_on_a_record():
    """Who is in the batch, and in which order, says nothing about a record's own slot."""
    key, count = torch.tensor(3), torch.tensor([5])
    everyone = slots(torch.arange(100), key, count)
    some = torch.tensor([97, 3, 55])
    assert slots(some, key, count).equal(everyone[some])


def test_slots_are_even_and_new_for_every_key():
    """Chi-squared tests of 8 slots, and of pairs of slots under two keys: error rate 2e-6."""
    records, count = torch.arange(20_000), torch.tensor([8])
    one, other = (slots(records, torch.tensor(key), count) for key in (5, 5 + (1 << 32)))
    assert chisquare(np.bincount(one, minlength=8)).pvalue > 1e-6
    assert chisquare(np.bincount(8 * one + other, minlength=64)).pvalue > 1e-6


def test_a_record_that_is_not_finite_takes_its_micro_batch_with_it_and_no_other():
    clipping, key = MicroBatches(size=2), 4
    parameters, batch = parameters_of(), batch_of(6)
    batch["token_ids"].clamp_(max=7)
    batch["token_ids"][2, 0, 0] = 8
    parameters["embedding"][8] = torch.nan
    broken, _ = summed(clipping, parameters, batch, key=key)
    parameters["embedding"][8] = 0.0
    slot, _ = slots_of(batch, 2, key)
    left = batch["weight"] * torch.tensor([float(s != slot[2]) for s in slot])
    assert_close(broken, summed(clipping, parameters, batch | {"weight": left}, key=key)[0])


def test_a_null_record_that_is_not_finite_is_no_matter():
    clipping = MicroBatches(size=2)
    parameters, batch = parameters_of(), batch_of(6)
    batch["token_ids"].clamp_(max=7)
    wanted, _ = summed(clipping, parameters, batch)
    batch["token_ids"][1, 0, 0] = 8
    parameters["embedding"][8] = torch.nan
    assert_close(summed(clipping, parameters, batch)[0], wanted)


@pytest.mark.parametrize("most", [1, 100])
def test_null_records_alone_sum_to_zero(most):
    batch = batch_of(3)
    batch["weight"].zero_()
    total, factors = summed(MicroBatches(size=2), parameters_of(), batch, most=most)
    assert not any(g.any() for g in total.values())
    assert not factors.any()


def test_counts_and_losses_are_those_of_the_examples():
    batch = batch_of(6)
    (terms,) = MicroBatches(size=3).terms(MODEL.losses, batch, torch.tensor(1), 100)
    parameters = parameters_of()
    total = (terms.losses(parameters, terms.batch) * terms.counts).sum()
    wanted = (MODEL.losses(parameters, batch) * batch["weight"]).sum()
    assert terms.counts.sum() == 5
    torch.testing.assert_close(total, wanted)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MicroBatches(size=0), "size of micro-batches is 0"),
        (lambda: MicroBatches(size=2, within=MicroBatches(size=2)), "MicroBatches again"),
    ],
)
def test_settings_without_meaning_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
