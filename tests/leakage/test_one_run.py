"""The one-run bound against direct sums, published caps, and mechanisms of known epsilon."""

from fractions import Fraction
from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from fedsim.errors import ConfigError
from fedsim.leakage.one_run import correct_guesses, one_run_bound
from fedsim.privacy import Gaussian
from fedsim.privacy import epsilon as exact_epsilon
from fedsim.rng import stream

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4)


def slow_probability(epsilon, correct, guesses, canaries, delta):
    """The theorem as it is printed, every tail summed on its own."""
    p = 1 / (1 + np.exp(-epsilon))
    each = [comb(guesses, k) * p**k * (1 - p) ** (guesses - k) for k in range(guesses + 1)]
    beta = sum(each[correct:])
    alpha = max((sum(each[correct - i :]) - beta) / i for i in range(1, correct + 1))
    return beta + 2 * canaries * delta * alpha


def slow_bound(correct, guesses, canaries, delta, level, step=0.01):
    """The largest rejected epsilon of a grid, and whether the rejected ones are an interval."""
    grid = np.arange(0, 8, step)
    rejected = [slow_probability(e, correct, guesses, canaries, delta) <= level for e in grid]
    first = rejected.index(False)
    return (grid[first - 1] if first else 0.0), not any(rejected[first:])


@st.composite
def audits(draw):
    canaries = draw(st.integers(1, 60))
    guesses = draw(st.integers(1, canaries))
    return (
        draw(st.integers(1, guesses)),
        guesses,
        canaries,
        draw(st.sampled_from([0.0, 1e-9, 1e-5, 1e-3, 1 / (2 * canaries)])),
        draw(st.sampled_from([0.05, 0.3, 3e-4])),
    )


@given(audits())
@settings(max_examples=60, deadline=None)
def test_bound_is_that_of_the_direct_sums(case):
    correct, guesses, canaries, delta, level = case
    wanted, interval = slow_bound(*case)
    found = one_run_bound(
        correct=correct, guesses=guesses, canaries=canaries, delta=delta, level=level
    )
    assert interval
    assert wanted - 1e-6 <= found <= wanted + 0.0101


def exact_probability(epsilon, correct, guesses, canaries, delta):
    """The theorem in rational numbers; the probability of a right guess alone is rounded, once."""
    p = Fraction(1 / (1 + np.exp(-epsilon)))
    each = [comb(guesses, k) * p**k * (1 - p) ** (guesses - k) for k in range(guesses + 1)]
    beta = sum(each[correct:])
    # P[W >= v - i] - beta for i = 1 .. v, one probability more at a time.
    more = accumulate(each[:correct][::-1])
    alpha = max(gained / i for i, gained in enumerate(more, start=1))
    return beta + 2 * canaries * Fraction(delta) * alpha


@pytest.mark.parametrize(
    ("correct", "guesses", "canaries", "delta", "level"),
    [
        (9, 10, 12, 0.0, 0.05),
        (50, 50, 60, 1e-5, 0.05),
        (43, 60, 500, 1e-5, 0.05),
        (100, 100, 500, 1e-9, 0.05 / 160),
        (170, 200, 500, 1e-6, 0.05 / 160),
        (200, 200, 200, 1 / 400, 0.5),
    ],
)
def test_bound_is_where_exact_binomials_cross_the_level(correct, guesses, canaries, delta, level):
    found = one_run_bound(
        correct=correct, guesses=guesses, canaries=canaries, delta=delta, level=level
    )
    case = (correct, guesses, canaries, delta)
    below, above = (exact_probability(found + step, *case) for step in (-1e-9, 1e-9))
    assert found > 0.1
    assert below < Fraction(level) < above


@pytest.mark.parametrize(
    ("canaries", "cap"), [(100, 3.5), (200, 4.2), (500, 5.1), (1000, 5.8), (5000, 7.3)]
)
def test_a_perfect_attack_certifies_the_known_cap(canaries, cap):
    bound = one_run_bound(
        correct=canaries, guesses=canaries, canaries=canaries, delta=1e-5, level=0.05
    )
    assert round(bound, 1) == cap


@pytest.mark.parametrize(
    ("correct", "guesses", "level", "published"),
    [
        (100, 100, 0.05, 3.4791953936219215),
        (100, 100, 0.01, 3.023197554051876),
        (23, 30, 0.05, 0.42648759204894304),
        (23, 30, 0.01, 0.16005427204072475),
        (18, 25, 0.05, 0.14663786999881268),
        (58, 95, 0.05, 0.08366204984486103),
        (60, 100, 0.05, 0.05073561053723097),
        (23, 35, 0.05, 0.014548719860613346),
    ],
)
def test_bound_is_that_of_an_independent_implementation(correct, guesses, level, published):
    """Audits of code models with 500 canaries at delta 1e-5: the files audit_results.json and
    summary.json of huggingface.co/codedp-ase26/codedp-cpt-models and melihcatal/codedp-cpt-models.
    """
    bound = one_run_bound(correct=correct, guesses=guesses, canaries=500, delta=1e-5, level=level)
    assert bound == pytest.approx(published, abs=1e-8)


@pytest.mark.parametrize(("delta", "wanted"), [(1e-4, 0.0), (1e-7, 4.8)])
def test_at_the_delta_of_a_claim_a_corrected_audit_says_nothing(delta, wanted):
    bound = one_run_bound(correct=1000, guesses=1000, canaries=1000, delta=delta, level=0.05 / 200)
    assert round(bound, 1) == wanted


@pytest.mark.parametrize(
    ("mu", "canaries", "truth", "power"),
    [
        (1, 200, 4.38, 0.88),
        (1, 1000, 4.38, 1.30),
        (1, 5000, 4.38, 1.71),
        (2, 200, 10.0, 1.69),
        (2, 1000, 10.0, 2.63),
        (2, 5000, 10.0, 3.52),
    ],
)
def test_gaussian_scores_have_at_least_the_known_power_and_stay_below_the_truth(
    mu, canaries, truth, power
):
    """Mean over 20 seeds of a single look, at the number of guesses that does best on average."""
    bounds = np.array(
        [
            [gaussian_bound(mu, canaries, round(share * canaries), seed) for share in SHARES]
            for seed in range(20)
        ]
    )
    assert power - 0.05 <= bounds.mean(0).max() <= 1.5 * power
    assert bounds.max() < truth


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0, 3.0])
def test_a_95_percent_bound_on_gaussian_scores_misses_at_most_21_times_in_200(mu):
    """One that is wrong 5 % of the time passes with probability 0.9995; this one is never sharp."""
    truth = exact_epsilon([Gaussian(noise_multiplier=1 / mu)], 1e-5)
    bounds = np.array([gaussian_bound(mu, 500, 100, seed) for seed in range(200)])
    assert (bounds > truth).sum() <= 21
    assert bounds.mean() > (0.1 if mu < 1 else 0.2) * truth


def gaussian_bound(mu, canaries, guesses, seed):
    draw = stream(seed, "toy audit")
    member = draw.random(canaries) < 0.5
    scores = draw.normal(size=canaries) + mu * member
    correct = correct_guesses(scores, member, guesses)
    return one_run_bound(
        correct=correct, guesses=guesses, canaries=canaries, delta=1e-5, level=0.05
    )


def test_a_95_percent_bound_on_randomised_response_misses_as_often_as_it_may():
    """For randomised response the bound is sharp. One that is wrong 5 % of the time passes with
    probability 0.9995, one that is wrong 15 % of the time with probability 0.04."""
    epsilon, canaries, misses = 2.0, 300, 0
    for seed in range(200):
        draw = stream(seed, "randomised response")
        member = draw.random(canaries) < 0.5
        told = np.where(draw.random(canaries) < expit(epsilon), member, ~member)
        correct = int((told == member).sum())
        bound = one_run_bound(
            correct=correct, guesses=canaries, canaries=canaries, delta=0.0, level=0.05
        )
        misses += bound > epsilon
    assert 1 <= misses <= 21


def test_guesses_are_the_highest_and_the_lowest_scores():
    scores = np.array([0.3, 9.0, -4.0, 0.2, 8.0, -5.0])
    member = np.array([True, True, False, False, False, True])
    assert [correct_guesses(scores, member, r) for r in range(7)] == [0, 1, 1, 1, 2, 3, 4]


def test_impossible_counts_and_large_deltas_are_refused():
    with pytest.raises(ConfigError, match="3 right of 2 guesses"):
        one_run_bound(correct=3, guesses=2, canaries=5, delta=0.0, level=0.05)
    with pytest.raises(ConfigError, match=r"delta is 0\.2 with 5 canaries; choose 0\.1"):
        one_run_bound(correct=1, guesses=2, canaries=5, delta=0.2, level=0.05)
