"""The bound from repeated runs: as often wrong as it may be, and near the truth with many runs."""

import numpy as np
import pytest
from scipy.special import expit, ndtr
from scipy.stats import binom

from fedsim.errors import ConfigError
from fedsim.leakage.repeated import highest_rate, repeated_runs_bound
from fedsim.privacy import Gaussian, epsilon
from fedsim.rng import stream


@pytest.mark.parametrize(("events", "trials"), [(0, 10), (3, 10), (9, 10), (40, 1000)])
def test_at_the_highest_rate_so_few_events_have_the_probability_of_the_level(events, trials):
    rate = highest_rate(events, trials, 0.025)
    assert binom.cdf(events, trials, rate) == pytest.approx(0.025)


def test_events_in_every_trial_leave_every_rate_possible():
    assert highest_rate(10, 10, 0.025) == 1.0


@pytest.mark.parametrize("truth", [0.5, 2.0])
def test_a_95_percent_bound_misses_at_most_21_times_in_200(truth):
    """A bound that is wrong 5 % of the time passes with probability 0.999."""
    draw = stream(0, "repeated runs")
    hits = draw.binomial(500, expit(truth), 200)
    alarms = draw.binomial(500, 1 - expit(truth), 200)
    bounds = [
        repeated_runs_bound(
            hits=h, members=500, false_alarms=a, non_members=500, delta=0.0, level=0.05
        )
        for h, a in zip(hits.tolist(), alarms.tolist(), strict=True)
    ]
    assert sum(bound > truth for bound in bounds) <= 21
    assert np.mean(bounds) > 0.6 * truth


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0, 3.0])
def test_a_95_percent_bound_on_a_gaussian_mechanism_misses_at_most_21_times_in_200(mu):
    """Threshold at mu, where half of the members are found; delta is 1e-5."""
    truth = epsilon([Gaussian(noise_multiplier=1 / mu)], 1e-5)
    draw = stream(1, "repeated runs")
    hits, alarms = draw.binomial(500, 0.5, 200), draw.binomial(500, ndtr(-mu), 200)
    bounds = [
        repeated_runs_bound(
            hits=h, members=500, false_alarms=a, non_members=500, delta=1e-5, level=0.05
        )
        for h, a in zip(hits.tolist(), alarms.tolist(), strict=True)
    ]
    assert sum(bound > truth for bound in bounds) <= 21
    assert np.mean(bounds) > 0.1 * truth


def test_many_runs_of_a_gaussian_mechanism_come_near_its_error_rates():
    """Threshold at the middle of N(0, 1) and N(2, 1): fpr = fnr = Phi(-1)."""
    rate, runs = ndtr(-1.0), 10**6
    bound = repeated_runs_bound(
        hits=round((1 - rate) * runs),
        members=runs,
        false_alarms=round(rate * runs),
        non_members=runs,
        delta=1e-5,
        level=0.05,
    )
    assert bound == pytest.approx(np.log((1 - rate) / rate), abs=0.01)


def bound(hits, false_alarms, delta=1e-5):
    return repeated_runs_bound(
        hits=hits,
        members=100,
        false_alarms=false_alarms,
        non_members=100,
        delta=delta,
        level=0.05,
    )


def test_an_attack_that_is_wrong_or_blind_bounds_nothing():
    assert bound(hits=0, false_alarms=100) == 0.0
    assert bound(hits=50, false_alarms=50) == 0.0


def test_delta_lowers_the_bound():
    assert 0 < bound(100, 0, delta=0.5) < bound(100, 0, delta=0.0)


def test_more_hits_than_runs_are_refused():
    with pytest.raises(ConfigError, match="11 hits in 10 runs"):
        repeated_runs_bound(
            hits=11, members=10, false_alarms=0, non_members=10, delta=0.0, level=0.05
        )
