"""Intervals agree with SciPy's, hold as often as they say, and widen with comparisons."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.report.statistics import (
    AtLeast,
    estimate,
    first_reaching,
    median_reaching,
    p_value,
    relative_changes,
)
from fedsim.rng import stream

fractions = st.floats(0, 1, allow_nan=False)


@given(st.lists(fractions, min_size=2, max_size=12), st.integers(1, 8))
def test_interval_is_scipys_t_interval_at_the_corrected_level(values, comparisons):
    found = estimate(values, comparisons)
    scale = stats.sem(values)
    assert found is not None
    if scale > 0:
        low, high = stats.t.interval(
            1 - 0.05 / comparisons, len(values) - 1, np.mean(values), scale
        )
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    else:
        assert found.low == pytest.approx(found.mean) == found.high


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.integers(1, 8))
def test_p_is_scipys_paired_t_test_corrected_and_agrees_with_the_interval(values, comparisons):
    found, interval = p_value(values, comparisons), estimate(values, comparisons)
    if np.ptp(values) < 1e-6:
        return
    expected = stats.ttest_1samp(values, 0.0).pvalue * comparisons
    assert found == pytest.approx(min(1.0, expected), abs=1e-9)
    if abs(expected - 0.05) > 1e-6:
        assert (found < 0.05) == (interval.low > 0 or interval.high < 0)


@pytest.mark.parametrize("values", [[], [0.2], [0.2, 0.2]])
def test_without_spread_there_is_no_test(values):
    assert p_value(values) is None


def test_interval_holds_the_truth_in_95_of_100_samples():
    samples = stream(0, "coverage").normal(3.0, 2.0, (4000, 5))
    intervals = [estimate(sample.tolist()) for sample in samples]
    holds = np.mean([e.low <= 3.0 <= e.high for e in intervals])
    # Binomial: five standard errors of 4,000 trials, wrong once in two million runs.
    assert abs(holds - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 4000)


def test_one_seed_has_no_interval_and_none_has_no_mean():
    assert estimate([]) is None
    alone = estimate([0.5])
    assert alone is not None
    assert (alone.mean, alone.low, alone.high, alone.count) == (0.5, None, None, 1)


@given(st.dictionaries(st.integers(0, 9), fractions), st.dictionaries(st.integers(0, 9), fractions))
def test_changes_are_paired_by_seed_and_undo_to_the_accuracy(ours, theirs):
    found = relative_changes(ours, theirs)
    assert set(found) == {seed for seed in ours if theirs.get(seed, 1.0) < 1}
    for seed, change in found.items():
        assert 1 - (1 + change) * (1 - theirs[seed]) == pytest.approx(ours[seed], abs=1e-9)


def test_pairing_removes_what_seeds_have_in_common():
    theirs = {0: 0.50, 1: 0.70, 2: 0.90}
    ours = {seed: 1 - 0.9 * (1 - accuracy) for seed, accuracy in theirs.items()}
    found = estimate(list(relative_changes(ours, theirs).values()))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1))


@given(st.lists(fractions, min_size=1, max_size=20), fractions)
def test_first_reaching_agrees_with_a_loop(values, target):
    at = np.arange(1, len(values) + 1) * 5
    slow = next((float(p) for p, v in zip(at, values, strict=True) if v >= target), None)
    assert first_reaching(at, np.array(values), target) == slow


def test_median_of_reaching_counts_runs_that_never_did_as_later():
    assert median_reaching([10, 20, None], [50, 50, 50]) == 20
    assert median_reaching([10, None], [50, 60]) == AtLeast(60)
    assert str(median_reaching([None], [1234])) == ">1,234"
