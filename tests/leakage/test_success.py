"""AUC, its interval and true positive rates, against loops and Gaussian scores of known shift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from fedsim.errors import ConfigError
from fedsim.leakage.success import auc, auc_interval, roc, success, true_positives
from fedsim.rng import stream

SCORED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({member for _, member in rows}) == 2
)


def gaussian(mu, members, non_members, seed):
    """Scores N(mu, 1) of members and N(0, 1) of non-members."""
    draw = stream(seed, "toy scores")
    member = np.arange(members + non_members) < members
    return draw.normal(size=len(member)) + mu * member, member


@given(SCORED)
@settings(deadline=None)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    scores, member = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [
        1.0 if inside > outside else 0.5 if inside == outside else 0.0
        for inside in scores[member]
        for outside in scores[~member]
    ]
    assert auc(scores, member) == pytest.approx(np.mean(pairs))


@given(SCORED, st.sampled_from([0.1, 0.3, 0.7]))
@settings(deadline=None)
def test_true_positive_rate_is_that_of_the_best_threshold(rows, fpr):
    scores, member = (np.array(column) for column in zip(*rows, strict=True))
    best = None
    if fpr * (~member).sum() >= 1:
        thresholds = [*np.unique(scores), np.inf]
        within = [t for t in thresholds if (scores[~member] >= t).mean() <= fpr]
        best = max((scores[member] >= t).mean() for t in within)
    assert true_positives(scores, member, fpr).tpr == pytest.approx(best)


@given(SCORED)
@settings(deadline=None)
def test_area_under_the_roc_points_is_the_auc(rows):
    scores, member = (np.array(column) for column in zip(*rows, strict=True))
    fpr, tpr = roc(scores, member)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(scores, member))
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0, 3.0])
def test_gaussian_scores_have_the_known_auc_and_true_positive_rates(mu):
    found = success(*gaussian(mu, 20_000, 20_000, seed=1))
    assert found.auc == pytest.approx(ndtr(mu / np.sqrt(2)), abs=0.01)
    for at, tolerance in ((found.at_1pct, 0.03), (found.at_01pct, 0.06)):
        assert at.tpr == pytest.approx(ndtr(mu + ndtri(at.fpr)), abs=tolerance)
        assert not at.coarse


@pytest.mark.parametrize(("members", "non_members"), [(250, 250), (40, 40), (15, 45)])
@pytest.mark.parametrize("mu", [0.0, 1.0, 2.0, 3.0])
def test_the_interval_covers_the_true_auc(mu, members, non_members):
    """A 95 % interval misses more than 35 times in 400 with probability 6e-4, one of 88 % misses no
    more with probability 0.024."""
    truth, misses = ndtr(mu / np.sqrt(2)), 0
    for seed in range(400):
        value = auc(*gaussian(mu, members, non_members, seed))
        low, high = auc_interval(value, members, non_members)
        misses += not low <= truth <= high
    assert misses <= 35


def test_the_interval_of_a_perfect_attack_on_few_is_no_point():
    low, high = auc_interval(1.0, 10, 10)
    assert low < 0.9 and high == 1.0
    assert auc_interval(0.0, 10, 10) == pytest.approx((0.0, 1 - low))


def test_null_runs_have_a_mean_auc_of_one_half():
    """40 runs of 250 and 250; 3 standard errors are exceeded with probability 0.003."""
    values = [auc(*gaussian(0.0, 250, 250, seed)) for seed in range(40)]
    assert abs(np.mean(values) - 0.5) <= 3 * np.std(values, ddof=1) / np.sqrt(40)


@pytest.mark.parametrize(
    ("non_members", "measured", "coarse"),
    [(999, False, True), (1000, True, True), (9_999, True, True), (10_000, True, False)],
)
def test_one_in_a_thousand_needs_a_thousand_non_members(non_members, measured, coarse):
    at = success(*gaussian(1.0, 50, non_members, seed=0)).at_01pct
    assert ((at.tpr is not None), at.coarse) == (measured, coarse)


def test_without_members_or_non_members_nothing_is_measured():
    assert success(np.zeros(3), np.ones(3, bool)) is None
    assert success(np.zeros(3), np.zeros(3, bool)) is None


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="1 of 2 attack scores"):
        success(np.array([np.nan, 1.0]), np.array([True, False]))
