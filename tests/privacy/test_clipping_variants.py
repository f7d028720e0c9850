"""Claims about ways of clipping: sums against loops, and how far one record moves them."""

import pytest
import torch
from clipped_sums import (
    LAYERS,
    MODEL,
    assert_close,
    batch_of,
    gradients_of,
    layer_of,
    length,
    moved,
    parameters_of,
    summed,
    without,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.privacy import Automatic, Flat, PerLayer

SCALES = {"embedding": 0.5, "lstm": 1.5, "intent": 0.2, "slot": 0.7}
VARIANTS = {"flat": Flat(), "automatic": Automatic(), "per layer": PerLayer(scales=SCALES)}
EVERY_VARIANT = pytest.mark.parametrize("clipping", VARIANTS.values(), ids=VARIANTS)
SEEDS = st.integers(0, 2**31)


def flat(gradient, clip_norm):
    factor = min(1.0, clip_norm / length(gradient))
    return {n: factor * g for n, g in gradient.items()}


def automatic(gradient, clip_norm):
    factor = clip_norm / (length(gradient) + 0.01)
    return {n: factor * g for n, g in gradient.items()}


def per_layer(gradient, clip_norm):
    factors = {
        layer: min(1.0, SCALES[layer] * clip_norm / length(gradient, names))
        for layer in LAYERS
        if (names := {n for n in gradient if layer_of(n) == layer})
    }
    return {n: factors[layer_of(n)] * g for n, g in gradient.items()}


@pytest.mark.parametrize(
    ("clipping", "slowly"),
    [
        (VARIANTS["flat"], flat),
        (VARIANTS["automatic"], automatic),
        (VARIANTS["per layer"], per_layer),
    ],
    ids=VARIANTS,
)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, examples=st.integers(0, 5), clip_norm=st.sampled_from([0.05, 0.5, 5.0]))
def test_the_sum_is_that_of_a_loop(clipping, slowly, seed, examples, clip_norm):
    parameters, batch = parameters_of(seed), batch_of(examples, seed)
    wanted = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for b, gradient in enumerate(gradients_of(parameters, batch)):
        for name, g in slowly(gradient, clip_norm).items():
            wanted[name] += batch["weight"][b] * g
    assert_close(summed(clipping, parameters, batch, clip_norm)[0], wanted)


@EVERY_VARIANT
@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    b=st.integers(0, 3),
    scale=st.sampled_from([1e-3, 0.5, 5.0, 50.0]),
    clip_norm=st.sampled_from([1e-4, 0.1, 1.0, 100.0]),
)
def test_a_zeroed_record_moves_the_sum_by_no_more_than_the_sensitivity(
    clipping, seed, b, scale, clip_norm
):
    parameters, batch = parameters_of(seed, scale), batch_of(4, seed)
    here = summed(clipping, parameters, batch, clip_norm)[0]
    there = summed(clipping, parameters, without(batch, b), clip_norm)[0]
    assert moved(here, there) <= clipping.sensitivity * clip_norm * (1 + 1e-9)


@EVERY_VARIANT
def test_the_sensitivity_is_reached(clipping):
    """With thresholds far below every gradient a record moves the sum by all it may."""
    parameters, batch = parameters_of(), batch_of(4)
    here = summed(clipping, parameters, batch, 1e-3)[0]
    there = summed(clipping, parameters, without(batch, 0), 1e-3)[0]
    assert moved(here, there) == pytest.approx(clipping.sensitivity * 1e-3, rel=0.02)


@EVERY_VARIANT
def test_a_record_that_is_not_finite_counts_as_none(clipping):
    parameters, batch = parameters_of(), batch_of(4)
    batch["token_ids"].clamp_(max=7)
    batch["token_ids"][2, 0, 0] = 8
    parameters["embedding"][8] = torch.nan
    broken, factors = summed(clipping, parameters, batch)
    parameters["embedding"][8] = 0.0
    assert factors[2] == 0
    assert_close(broken, summed(clipping, parameters, without(batch, 2))[0])


def test_thresholds_by_size_are_jointly_the_clip_norm():
    clipping = PerLayer.by_size(dict(MODEL.named_parameters()))
    assert set(clipping.scales) == set(LAYERS)
    assert clipping.sensitivity == pytest.approx(1.0)


def test_the_joint_threshold_is_the_root_of_the_summed_squares():
    assert PerLayer(scales=SCALES).sensitivity == pytest.approx(
        sum(scale**2 for scale in SCALES.values()) ** 0.5
    )


def test_the_longest_beginning_counts_and_layers_may_share_one():
    squares = torch.tensor([[9.0], [16.0], [4.0]])
    clipping = PerLayer(scales={"a": 1.0, "ab": 1.0})
    factors = clipping.factors(squares, [["a1"], ["a2", "a3"], ["abc"]], 1.0)
    assert factors.flatten().tolist() == pytest.approx([0.2, 0.2, 0.5])


@pytest.mark.parametrize(
    ("scales", "says"),
    [
        ({"embedding": 1.0, "lstm": 1.0, "intent": 1.0}, "slot_weight, slot_bias has no threshold"),
        ({**SCALES, "slot_weight": 1.0}, "slot_weight, slot_bias has no threshold of its own"),
        ({**SCALES, "mix": 1.0}, "scales has mix, which no layer"),
    ],
    ids=["missing", "split", "unused"],
)
def test_thresholds_that_fit_no_layer_are_refused(scales, says):
    with pytest.raises(ConfigError, match=says):
        summed(PerLayer(scales=scales), parameters_of(), batch_of(2))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PerLayer(scales={}), "scales is empty"),
        (lambda: PerLayer(scales={"a": 0.0}), "scales of 'a' is 0.0"),
        (lambda: Automatic(stability=0.0), "stability is 0.0"),
        (lambda: Automatic(stability=float("nan")), "stability is nan"),
    ],
)
def test_settings_without_meaning_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
