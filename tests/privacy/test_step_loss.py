"""The loss of one step: bounds on its moments lie above them, and no tail loses its digits."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from fedsim.privacy.accounting import history_epsilon
from fedsim.privacy.loss import MOST_POINTS, compose
from fedsim.privacy.step_loss import BLOCK, MOST_KEPT, _normal_between, step_loss, variance


@pytest.mark.parametrize(("q", "spacing"), [(0.05, 2.0**-8), (1e-3, 2.0**-14), (1e-4, 2.0**-16)])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("rate", [-64.0, -1.0, 0.5, 4.0, 64.0])
def test_moments_are_never_understated_and_hardly_overstated(q, spacing, direction, rate):
    """By no more than the chord lies above an exponential between two points that stay."""
    step = step_loss(q, 1.0, "zero-out", direction, spacing)
    losses = spacing * (step.start + np.arange(len(step.mass)))
    exponent = rate * losses
    exact = exponent.max() + math.log((np.exp(exponent - exponent.max()) * step.mass).sum())
    stride = BLOCK if len(losses) > MOST_KEPT else 1
    share, reach = np.linspace(0, 1, 1001), abs(rate) * spacing * stride
    chord = np.log1p(share * math.expm1(reach)) - share * reach
    assert exact - 1e-12 <= step.log_moment(rate) <= exact + chord.max() + 1e-12


def test_very_many_rare_steps_need_no_wider_window_than_their_loss():
    """Rounded up a block a step, the window drifts by steps x blocks: 16 times as many points,
    whose rounding errors add up. Known is the epsilon of a transform in extended precision."""
    history = ((1e-3, 0.5, 100_000),)
    composed = compose(history, "zero-out", "forward")
    deviation = math.sqrt(100_000 * variance(1e-3, 0.5, "zero-out"))
    assert composed.losses[-1] - composed.losses[0] < 30 * deviation
    assert composed.epsilon(1e-10) == pytest.approx(20.963, rel=2e-3)


def test_next_to_impossible_steps_under_little_noise_fit_into_memory():
    """Their window is bounded best at rates far below one."""
    composed = compose(((2e-9, 0.1, 1600), (1e-4, 3.0, 30)), "replace-one", "forward")
    assert len(composed.losses) < 4 * MOST_POINTS


def test_probabilities_between_outcomes_lose_no_digits_in_either_tail():
    """Against the plain difference, from the side where it is one of small numbers."""
    z = np.array([-np.inf, -30.0, -8.0, -1e-3, 0.0, 1e-3, 2.0, 8.0, 30.0, np.inf])
    found = _normal_between(z)
    for low, high, own in zip(z[:-1], z[1:], found, strict=True):
        plain = ndtr(-low) - ndtr(-high) if low > 0 else ndtr(high) - ndtr(low)
        assert own == plain
    assert found.sum() == pytest.approx(1.0)


def test_rare_steps_on_a_long_grid_agree_with_dp_accounting():
    from dp_accounting.pld import privacy_loss_distribution as pld

    history = ((1e-4, 1.0, 60), (3e-3, 0.8, 40))
    theirs = None
    for rate, noise, times in history:
        one = pld.from_gaussian_mechanism(
            noise, sampling_prob=rate, value_discretization_interval=1e-4
        ).self_compose(times)
        theirs = one if theirs is None else theirs.compose(one)
    for delta in (1e-5, 1e-7):
        found = history_epsilon(history, delta, "zero-out")
        known = theirs.get_epsilon_for_delta(delta)
        assert 0.999 * known <= found <= 1.01 * known
