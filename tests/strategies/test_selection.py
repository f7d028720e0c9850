"""Participation rates mean what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from strategies import (
    ActivitySelection,
    LogActivitySelection,
    SoftmaxSelection,
    TopActivitySelection,
    UniformSelection,
)
from strategies.selection import capped_rates

ACTIVITY = np.array([0, 1, 1, 2, 3, 5, 8, 13, 0, 21, 34, 400])

cohorts = st.floats(0.5, 60)
caps = st.floats(0.01, 1)
activities = st.lists(st.integers(0, 10**6), min_size=1, max_size=40).map(np.array)
capped_policies = st.one_of(
    st.builds(ActivitySelection, cohort=cohorts, power=st.floats(0, 3), cap=caps),
    st.builds(LogActivitySelection, cohort=cohorts, cap=caps),
    st.builds(SoftmaxSelection, cohort=cohorts, temperature=st.floats(1e-9, 1e9), cap=caps),
)
policies = st.one_of(
    capped_policies,
    st.builds(UniformSelection, cohort=cohorts),
    st.builds(TopActivitySelection, cohort=st.floats(1, 60)),
)

EVERY_POLICY = [
    UniformSelection(cohort=4),
    ActivitySelection(cohort=3.5),
    ActivitySelection(cohort=4, power=0.5),
    ActivitySelection(cohort=4, power=2, cap=0.6),
    LogActivitySelection(cohort=4, cap=0.5),
    SoftmaxSelection(cohort=2.5, temperature=0.5),
    TopActivitySelection(cohort=3),
]


@given(policies, activities)
def test_rates_are_probabilities_and_devices_without_data_never_come(policy, activity):
    rates = policy.rates(activity)
    assert rates.shape == activity.shape
    assert ((rates >= 0) & (rates <= 1)).all()
    assert (rates[activity == 0] == 0).all()


@given(capped_policies, activities)
def test_rates_sum_to_the_cohort_or_as_near_as_caps_allow(policy, activity):
    holders = np.count_nonzero(activity)
    wanted = min(policy.cohort, policy.cap * holders)
    assert policy.rates(activity).sum() == pytest.approx(wanted, rel=1e-9)


@given(capped_policies, activities)
def test_no_rate_exceeds_the_cap_and_every_holder_has_a_chance(policy, activity):
    rates = policy.rates(activity)
    assert rates.max() <= policy.cap
    assert (rates[activity > 0] > 0).all()


@given(policies, activities)
def test_a_more_active_device_is_never_less_likely(policy, activity):
    rates = policy.rates(activity)
    busier = activity[:, None] > activity[None, :]
    assert not (busier & (rates[:, None] < rates[None, :] - 1e-12)).any()


@given(activities, cohorts, caps, st.integers(1, 1000))
def test_activity_in_other_units_gives_the_same_rates(activity, cohort, cap, unit):
    for policy in (
        ActivitySelection(cohort=cohort, cap=cap),
        SoftmaxSelection(cohort=cohort, cap=cap),
    ):
        np.testing.assert_allclose(
            policy.rates(activity * unit), policy.rates(activity), rtol=1e-6, atol=1e-12
        )


@given(activities, cohorts)
def test_power_zero_is_uniform(activity, cohort):
    np.testing.assert_allclose(
        ActivitySelection(cohort=cohort, power=0).rates(activity),
        UniformSelection(cohort=cohort).rates(activity),
    )


@settings(max_examples=200)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e6)), min_size=1, max_size=30), cohorts, caps
)
def test_capped_rates_agree_with_bisection(scores, cohort, cap):
    scores = np.array(scores)

    def oracle():
        if cap * np.count_nonzero(scores) <= cohort:
            return np.where(scores > 0, cap, 0.0)
        low, high = 0.0, cap / scores[scores > 0].min()
        for _ in range(200):
            middle = (low + high) / 2
            enough = np.minimum(cap, middle * scores).sum() >= cohort
            low, high = (low, middle) if enough else (middle, high)
        return np.minimum(cap, high * scores)

    np.testing.assert_allclose(capped_rates(scores, cohort, cap), oracle(), rtol=1e-8, atol=1e-12)


def test_proportional_rates_by_hand():
    rates = ActivitySelection(cohort=2).rates(np.array([1, 2, 3, 0, 2]))
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 0, 0.5])


def test_log_and_softmax_rates_by_hand():
    np.testing.assert_allclose(LogActivitySelection(cohort=1).rates(np.array([1, 7])), [0.25, 0.75])
    np.testing.assert_allclose(
        SoftmaxSelection(cohort=1, temperature=2).rates(np.array([0, 1, 3])),
        [0, 1 / (1 + np.exp(0.5)), np.exp(0.5) / (1 + np.exp(0.5))],
    )


def test_hot_softmax_is_uniform_and_cold_softmax_takes_the_most_active():
    held = ACTIVITY > 0
    hot = SoftmaxSelection(cohort=2, temperature=1e12).rates(ACTIVITY)
    np.testing.assert_allclose(hot[held], 2 / held.sum(), rtol=1e-6)
    cold = SoftmaxSelection(cohort=1, temperature=1e-9).rates(ACTIVITY)
    assert cold[np.argmax(ACTIVITY)] == pytest.approx(1)
    assert np.isfinite(cold).all()


def test_top_takes_the_most_active_and_breaks_ties_by_device():
    rates = TopActivitySelection(cohort=3.9).rates(np.array([7, 9, 7, 7, 0]))
    assert rates.tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: UniformSelection(cohort=0), "cohort is 0; choose more than 0"),
        (lambda: LogActivitySelection(cohort=-1), "cohort is -1; choose more than 0"),
        (lambda: ActivitySelection(cohort=float("nan")), "cohort is nan; choose more than 0"),
        (lambda: ActivitySelection(cohort=1, power=-1), "power is -1; choose 0 (uniform) to 20"),
        (lambda: ActivitySelection(cohort=1, power=99), "power is 99; choose 0 (uniform) to 20"),
        (lambda: ActivitySelection(cohort=1, cap=0), "cap is 0; choose a rate in (0, 1]"),
        (lambda: LogActivitySelection(cohort=1, cap=1.5), "cap is 1.5; choose a rate in (0, 1]"),
        (
            lambda: SoftmaxSelection(cohort=1, temperature=0),
            "temperature is 0; choose 1e-9 or more",
        ),
        (lambda: TopActivitySelection(cohort=0.5), "cohort is 0.5; choose 1 or more"),
    ],
)
def test_impossible_policies_are_refused(make, sentence):
    with pytest.raises(ConfigError) as refused:
        make()
    assert str(refused.value) == sentence


def test_the_largest_power_stays_finite_on_a_million_examples():
    rates = ActivitySelection(cohort=2, power=20).rates(np.array([1, 10**6, 10**6, 10**5]))
    assert rates.sum() == pytest.approx(2)
    assert (rates > 0).all()


@pytest.mark.parametrize(
    ("policy", "label", "weighting"),
    [
        (UniformSelection(cohort=1), "uniform", "examples"),
        (ActivitySelection(cohort=1), "activity", "equal"),
        (ActivitySelection(cohort=1, power=0.5), "sqrt", "inverse-rate"),
        (ActivitySelection(cohort=1, power=2, cap=0.25), "activity^2, cap 0.25", "inverse-rate"),
        (LogActivitySelection(cohort=1), "log", "inverse-rate"),
        (SoftmaxSelection(cohort=1), "softmax", "inverse-rate"),
        (TopActivitySelection(cohort=1), "top", "inverse-rate"),
    ],
)
def test_policies_name_themselves_and_their_natural_weighting(policy, label, weighting):
    assert (policy.label, policy.natural_weighting) == (label, weighting)
