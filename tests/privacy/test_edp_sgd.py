"""eDP-SGD costs what micro-batches cost; a naive reading claims far less."""

import pytest
from clipped_sums import MODEL

from fedsim.privacy import ExampleLevel, Gaussian, LocalSteps, epsilon
from fedsim.privacy.edp_sgd import edp_sgd, naive_reading

PLAIN = ExampleLevel(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5)
PARAMETERS = dict(MODEL.named_parameters())
LOCAL = LocalSteps(batch_size=10, local_steps=1000)


def cost(private):
    return epsilon(private.participation(1000, LOCAL), 1e-5)


def test_micro_batches_turn_1_83_into_13_4():
    """sigma 1, q 0.01, 1000 steps, delta 1e-5."""
    edp = edp_sgd(PLAIN, PARAMETERS, steps_an_epoch=100, factor=1.0)
    assert cost(naive_reading(edp)) == pytest.approx(1.829, rel=0.01)
    assert cost(edp) == pytest.approx(13.36, rel=0.01)
    half = ExampleLevel(clip_norm=1.0, noise_multiplier=0.5, delta=1e-5)
    assert cost(edp) == pytest.approx(cost(half), rel=1e-6)


def test_falling_noise_is_composed_step_by_step_at_half_of_itself():
    edp = edp_sgd(PLAIN, PARAMETERS, steps_an_epoch=100, factor=0.95)
    epochs = [Gaussian(noise_multiplier=0.95**e / 2, rate=0.01, steps=100) for e in range(10)]
    assert cost(edp) == pytest.approx(epsilon(epochs, 1e-5), rel=1e-6)
    assert cost(naive_reading(edp)) == pytest.approx(1.829, rel=0.01)


def test_layers_have_thresholds_that_are_jointly_the_clip_norm():
    edp = edp_sgd(PLAIN, PARAMETERS, steps_an_epoch=100)
    scales = edp.clipping.within.scales
    assert edp.sensitivity == pytest.approx(2.0)
    assert scales["embedding"] ** 2 == pytest.approx(
        PARAMETERS["embedding"].numel() / sum(p.numel() for p in PARAMETERS.values())
    )
