"""Falling noise: what a step gets is what it is charged for."""

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.privacy import ExampleLevel, Gaussian, LocalSteps, NoiseDecay, epsilon
from fedsim.privacy.accounting import canonical

LOCAL = LocalSteps(batch_size=10, local_steps=25)
PRIVATE = ExampleLevel(clip_norm=1.0, noise_multiplier=2.0, delta=1e-5)
FALLING = ExampleLevel(
    clip_norm=1.0, noise_multiplier=2.0, delta=1e-5, decay=NoiseDecay(factor=0.8, every=10)
)


def test_every_step_is_charged_at_its_own_noise():
    one_by_one = [Gaussian(noise_multiplier=2 * 0.8 ** (t // 10), rate=0.1) for t in range(25)]
    found = epsilon(FALLING.participation(100, LOCAL), 1e-5)
    assert found == pytest.approx(epsilon(one_by_one, 1e-5), rel=1e-9)


@pytest.mark.parametrize("every", [1, 7, 25, 100])
def test_stretches_are_the_steps(every):
    decay = NoiseDecay(factor=0.9, every=every)
    stretched = [fall for fall, steps in decay.stretches(25) for _ in range(steps)]
    assert stretched == [decay.at(step) for step in range(25)]


@pytest.mark.parametrize("cut", [1, 7, 10, 24])
def test_parts_of_a_participation_cost_what_the_whole_does(cut):
    parts = [*FALLING.events(0, cut, 0.1), *FALLING.events(cut, 25 - cut, 0.1)]
    assert canonical(parts) == canonical(FALLING.participation(100, LOCAL))


def test_noise_that_stays_is_one_event():
    assert len(PRIVATE.participation(100, LOCAL)) == 1


def test_falling_noise_costs_between_the_first_and_the_last():
    last = ExampleLevel(clip_norm=1.0, noise_multiplier=2.0 * 0.8**2, delta=1e-5)
    costs = [epsilon(p.participation(100, LOCAL), 1e-5) for p in (PRIVATE, FALLING, last)]
    assert costs[0] * 1.01 < costs[1] < costs[2] / 1.01


def test_calibration_counts_the_fall():
    """Devices with different numbers of steps, hence of stretches."""
    local, counts = LocalSteps(batch_size=10), np.array([5, 100, 251])
    target = ExampleLevel(
        clip_norm=1.0,
        epsilon=5.0,
        delta=1e-5,
        max_participations=3,
        decay=NoiseDecay(factor=0.8, every=10),
    )
    private = target.calibrated(counts, local)
    costs = [epsilon(private.participation(n, local) * 3, 1e-5) for n in counts.tolist()]
    assert 5.0 * 0.998 < max(costs) <= 5.0


def test_calibration_counts_the_fall_where_devices_change_from_period_to_period():
    """The oracle: the exact cost of every way to spread three participations over two periods."""
    local = LocalSteps(batch_size=10)
    target = ExampleLevel(
        epsilon=5.0, delta=1e-5, max_participations=3, decay=NoiseDecay(factor=0.6, every=3)
    )
    private = target.calibrated(np.array([[40, 5], [251, 0]]), local)
    costs = [
        epsilon(
            private.participation(40, local) * first
            + private.participation(251, local) * (3 - first),
            1e-5,
        )
        for first in range(4)
    ]
    assert 0 < max(costs) <= 5.0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"factor": 0.0}, "factor of the noise decay is 0.0"),
        ({"factor": 1.1}, "factor of the noise decay is 1.1"),
        ({"every": 0}, "every of the noise decay is 0"),
    ],
)
def test_settings_without_meaning_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        NoiseDecay(**wrong)
