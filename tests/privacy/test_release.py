"""A release clips, sums, noises and divides; one device moves it by no more than is stated."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import ConfigError
from fedsim.privacy.noise import secure, seeded
from fedsim.privacy.release import AdaptiveClipping, DeviceLevel

SIZE = 6
NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)
UPDATES = st.lists(st.tuples(st.floats(0, 1), st.lists(NUMBERS, min_size=SIZE, max_size=SIZE)))


def silence(size: int) -> np.ndarray:
    """No noise."""
    return np.zeros(size)


def unit_release(devices: int, **options):
    """Equal or smaller weights, a denominator of `devices`."""
    return DeviceLevel(**{"noise_multiplier": 1.0} | options).release(
        rates=np.ones(devices), weights=np.ones(devices)
    )


def slow_sum(updates, clip_norm):
    """The oracle: clipped and weighted, one number after another."""
    total = np.zeros(SIZE)
    for weight, update in updates:
        if all(map(math.isfinite, update)):
            norm = math.sqrt(sum(x * x for x in update))
            scale = 1.0 if norm <= clip_norm else clip_norm / norm
            total += [weight * scale * x for x in update]
    return total


def tensors(updates):
    return [(weight, torch.tensor(update)) for weight, update in updates]


@given(UPDATES, st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_mean_is_that_of_a_loop_over_numbers(updates, clip_norm):
    release = unit_release(4, clip_norm=clip_norm)
    mean, unclipped = release.mean(tensors(updates), SIZE, silence)
    np.testing.assert_allclose(
        mean.numpy(), slow_sum(updates, clip_norm) / 4, atol=1e-9 * clip_norm
    )
    assert unclipped is None


@given(UPDATES.filter(len), st.data())
@settings(max_examples=100, deadline=None)
def test_no_device_moves_the_sum_by_more_than_its_weight_allows(updates, data):
    release = unit_release(4, clip_norm=0.7)
    chosen = data.draw(st.integers(0, len(updates) - 1))
    without = [u for i, u in enumerate(updates) if i != chosen]
    with_it, _ = release.mean(tensors(updates), SIZE, silence)
    gone, _ = release.mean(tensors(without), SIZE, silence)
    moved = float((with_it - gone).norm()) * release.denominator
    # Sums of doubles are rounded in proportion to the whole, whatever the device adds.
    rounding = 1e-14 * len(updates)
    assert moved <= updates[chosen][0] * 0.7 + rounding <= release.sensitivity + rounding


@given(UPDATES.filter(len), st.data())
@settings(max_examples=100, deadline=None)
def test_sum_and_clip_bit_together_cost_what_the_round_is_accounted_with(updates, data):
    """Each in units of its noise, the two moves of one device make at most 1 / sigma."""
    sigma = 0.9
    release = unit_release(4, noise_multiplier=sigma, adaptive=AdaptiveClipping(bit_noise=0.8))
    chosen = data.draw(st.integers(0, len(updates) - 1))
    without = [u for i, u in enumerate(updates) if i != chosen]
    (mean, share), (mean_gone, share_gone) = (
        release.mean(tensors(each), SIZE, silence) for each in (updates, without)
    )
    of_sum = float((mean - mean_gone).norm()) * release.denominator
    of_bits = abs(share - share_gone) * release.denominator / release.largest_weight
    spread = release.sum_noise_multiplier * release.sensitivity
    assert math.hypot(of_sum / spread, of_bits / 0.8) <= (1 + 1e-9) / sigma


def test_empty_rounds_are_noised_too():
    release = unit_release(4, clip_norm=2.0, noise_multiplier=3.0)
    mean, _ = release.mean([], 40_000, seeded(0, "noise", 1))
    # The standard deviation of 40,000 draws is within 2 % of the truth but for 1 time in 10^7.
    assert float(mean.std()) == pytest.approx(3.0 * 2.0 / 4, rel=0.02)
    assert abs(float(mean.mean())) < 5.3 * 1.5 / 200


@pytest.mark.parametrize("draw", [secure, seeded(3, "noise")])
def test_noise_is_standard_normal(draw):
    """Each line fails a sound generator less than once in a million times."""
    numbers = draw(100_000)
    assert abs(numbers.mean()) < 4.9 / math.sqrt(1e5)
    assert abs(numbers.var() - 1) < 4.9 * math.sqrt(2 / 1e5)
    assert abs((numbers**4).mean() - 3) < 4.9 * math.sqrt(96 / 1e5)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4.9 / math.sqrt(1e5)


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_secure_noise_is_finite_whatever_the_system_draws(monkeypatch, byte):
    monkeypatch.setattr("os.urandom", lambda count: byte * count)
    assert np.isfinite(secure(3)).all()


def test_secure_noise_never_repeats():
    assert not (secure(8) == secure(8)).any()


def test_light_weights_hide_in_noise_made_for_the_largest():
    private = DeviceLevel(clip_norm=0.5, noise_multiplier=1.0)
    release = private.release(rates=np.array([0.5, 0.2, 0.0]), weights=np.array([0.1, 0.4, 1.0]))
    assert release.sensitivity == pytest.approx(0.5 * 0.4)
    assert release.denominator == pytest.approx(0.5 * 0.1 + 0.2 * 0.4)
    assert release.effective_noise == pytest.approx(0.4 / 0.13)


def test_under_add_remove_nothing_depends_on_who_is_there():
    private = DeviceLevel(
        noise_multiplier=1.0, adjacency="add-remove", weight_cap=1.0, denominator=32.0
    )
    few = private.release(rates=np.array([0.1]), weights=np.array([0.2]))
    many = private.release(rates=np.full(50, 0.3), weights=np.linspace(0, 1, 50))
    assert few == many


def test_clip_norm_is_found_where_the_wanted_share_of_updates_stays_unclipped():
    """Norms are 1 .. 100 and 80 % shall stay unclipped: C settles near 80, from either side."""
    updates = [(1.0, torch.full((4,), n / 2)) for n in range(1, 101)]
    for start in (1.0, 1000.0):
        private = DeviceLevel(
            clip_norm=start, noise_multiplier=0.0, adaptive=AdaptiveClipping(target=0.8)
        )
        norm = start
        for _ in range(200):
            release = private.release(rates=np.ones(100), weights=np.ones(100), clip_norm=norm)
            _, unclipped = release.mean(updates, 4, silence)
            norm *= math.exp(-0.2 * (unclipped - 0.8))
        assert 77 <= norm <= 83


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"clip_norm": math.nan}, "clip_norm is nan"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"adjacency": "swap"}, "adjacency is 'swap'"),
        ({"adjacency": "add-remove"}, "weight_cap is None; adjacency 'add-remove' needs"),
        ({"adjacency": "add-remove", "weight_cap": 1.0}, "denominator is None"),
        ({"denominator": 3.0}, "which only adjacency 'add-remove' uses"),
        ({"example_cap": 0}, "example_cap is 0"),
        ({"smallest_rate": 2.0}, "smallest_rate is 2.0"),
        ({"adaptive": AdaptiveClipping(bit_noise=0.5)}, "more than half the noise multiplier"),
    ],
)
def test_what_cannot_be_private_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        DeviceLevel(**{"noise_multiplier": 1.0} | options)


def test_weight_beyond_its_public_bound_is_refused():
    private = DeviceLevel(
        noise_multiplier=1.0, adjacency="add-remove", weight_cap=0.5, denominator=1.0
    )
    with pytest.raises(ConfigError, match="more than the public weight_cap"):
        private.release(rates=np.array([0.1]), weights=np.array([1.0]))
