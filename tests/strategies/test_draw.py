"""Draws happen at exactly the rates that were stated.

Statistical tests are deterministic (fixed seeds). Each would reject a correct implementation with
probability at most ALPHA over all devices and pairs that it looks at (Bonferroni).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_selection import ACTIVITY, EVERY_POLICY, activities, cohorts

from fedsim.rng import stream
from strategies import ActivitySelection, draw_cohort

ALPHA = 1e-6
ROUNDS = 4000


def inclusions(rates: np.ndarray, draw: str, rounds: int = ROUNDS) -> np.ndarray:
    """Who took part when, (rounds, devices) bool."""
    took_part = np.zeros((rounds, len(rates)), bool)
    for round in range(rounds):
        took_part[round, draw_cohort(rates, draw, 11, round + 1)] = True
    return took_part


def smallest_p(counts: np.ndarray, rates: np.ndarray, rounds: int = ROUNDS) -> float:
    """Smallest two-sided binomial p-value over devices."""
    pairs = zip(counts.tolist(), rates.tolist(), strict=True)
    return min(stats.binomtest(count, rounds, rate).pvalue for count, rate in pairs)


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.label)
@pytest.mark.parametrize("draw", ["poisson", "fixed"])
def test_nobody_comes_where_nobody_holds_data(policy, draw):
    rates = policy.rates(np.zeros(6, np.int64))
    assert len(draw_cohort(rates, draw, 0, 1)) == 0


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.label)
@pytest.mark.parametrize("draw", ["poisson", "fixed"])
def test_devices_come_as_often_as_their_rates_say(policy, draw):
    rates = policy.rates(ACTIVITY)
    counts = inclusions(rates, draw).sum(axis=0)
    assert smallest_p(counts, rates) > ALPHA / (2 * len(EVERY_POLICY) * len(rates))


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.label)
def test_fixed_cohorts_have_the_size_the_rates_sum_to(policy):
    rates = policy.rates(ACTIVITY)
    expected = round(rates.sum(), 9)
    sizes = inclusions(rates, "fixed", 500).sum(axis=1)
    assert set(sizes) <= {int(np.floor(expected)), int(np.ceil(expected))}


@given(activities, cohorts, st.integers(1, 50))
def test_fixed_cohorts_of_whole_size_never_wobble(activity, cohort, round):
    cohort = max(1, int(cohort))
    rates = ActivitySelection(cohort=cohort).rates(activity)
    drawn = draw_cohort(rates, "fixed", 3, round)
    assert len(drawn) == min(cohort, np.count_nonzero(activity))
    assert (np.diff(drawn) > 0).all()
    assert (rates[drawn] > 0).all()


def test_drawing_one_by_one_would_miss_the_stated_rates():
    activity = np.array([1, 2, 3, 4, 5, 6])
    rates = ActivitySelection(cohort=3).rates(activity)
    counts = np.zeros(6, np.int64)
    for round in range(ROUNDS):
        one_by_one = stream(11, "one by one", round).choice(
            6, 3, replace=False, p=activity / activity.sum()
        )
        counts[one_by_one] += 1
    assert smallest_p(counts, rates) < ALPHA
    assert smallest_p(inclusions(rates, "fixed").sum(axis=0), rates) > ALPHA / 6


def ordered(rates: np.ndarray, round: int) -> np.ndarray:
    """Oracle: systematic sampling of all devices in a random order, as Madow (1949) wrote it."""
    random = stream(12, "ordered", round)
    order = random.permutation(len(rates))
    marks = random.random() + np.arange(len(rates))
    reached = np.searchsorted(marks, np.cumsum(rates[order]))
    return order[np.diff(reached, prepend=0) > 0]


def test_fixed_cohorts_are_put_together_like_those_of_a_whole_order():
    rates = np.array([0.9, 0.05, 0.4, 0.25] * 15)
    statistics = {
        "drawn of the likely": lambda c: np.count_nonzero(rates[c] == 0.9),
        "drawn with a neighbour": lambda c: np.count_nonzero(np.diff(np.sort(c)) == 1),
    }
    for statistic in statistics.values():
        fast = [statistic(draw_cohort(rates, "fixed", 11, r)) for r in range(1, ROUNDS + 1)]
        slow = [statistic(ordered(rates, r)) for r in range(1, ROUNDS + 1)]
        table = np.array([np.bincount(each, minlength=60) for each in (fast, slow)])
        seen = table[:, table.sum(axis=0) >= 20]
        assert stats.chi2_contingency(seen).pvalue > ALPHA / len(statistics)


def test_a_fixed_draw_among_many_takes_everybody_as_often_as_its_rate_says():
    rates = np.linspace(0, 1, 401) ** 4
    rates[-20:] = 1
    counts = inclusions(rates, "fixed").sum(axis=0)
    assert smallest_p(counts, rates) > ALPHA / len(rates)
    assert (counts[-20:] == ROUNDS).all()


def test_poisson_coins_are_independent_of_each_other():
    rates = np.linspace(0.2, 0.8, 8)
    took_part = inclusions(rates, "poisson")
    standardised = (took_part - rates) / np.sqrt(rates * (1 - rates))
    pairs = np.triu_indices(8, 1)
    z = (standardised.T @ standardised / np.sqrt(ROUNDS))[pairs]
    # Standard normal by the central limit theorem; fixed draws push it to about -9.
    assert np.abs(z).max() < stats.norm.isf(ALPHA / 2 / len(z))
    assert took_part.sum(axis=1).var() == pytest.approx((rates * (1 - rates)).sum(), rel=0.2)


@pytest.mark.parametrize("draw", ["poisson", "fixed"])
def test_a_draw_depends_on_seed_and_round_alone(draw):
    rates = np.full(40, 0.3)
    forwards = [draw_cohort(rates, draw, 5, r).tolist() for r in range(1, 6)]
    backwards = [draw_cohort(rates, draw, 5, r).tolist() for r in range(5, 0, -1)]
    assert forwards == backwards[::-1]
    assert len({tuple(cohort) for cohort in forwards}) == 5
    assert draw_cohort(rates, draw, 6, 1).tolist() != forwards[0]
