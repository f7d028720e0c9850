"""What share of an attack's advantage is left: against resampling, and how often it is wrong."""

import numpy as np
import pytest

from fedsim.leakage.kept import Pair, _covariance, share_kept
from fedsim.leakage.success import auc


def gaussian(seed, before, after, n=200, alike=0.8):
    """A panel whose two attacks share noise; mu of members' scores before and after."""
    draw = np.random.default_rng(seed)
    member = draw.random(n) < 0.5
    common = draw.standard_normal(n)
    rest = np.sqrt(1 - alike**2)
    one, other = (alike * common + rest * draw.standard_normal(n) for _ in range(2))
    return Pair(before=one + before * member, after=other + after * member, member=member)


def test_covariances_are_those_of_resampled_panels():
    pair = gaussian(0, 1.0, 0.5, n=400)
    draw, found = np.random.default_rng(1), []
    inside, outside = np.flatnonzero(pair.member), np.flatnonzero(~pair.member)
    for _ in range(800):
        rows = np.concatenate(
            [draw.choice(inside, len(inside)), draw.choice(outside, len(outside))]
        )
        found.append([auc(s[rows], pair.member[rows]) for s in (pair.before, pair.after)])
    wanted = np.cov(np.transpose(found))
    # Ties in a resample leave the mean alone; 800 of them know a variance to 10 % (two errors).
    assert _covariance((pair.before, pair.after), pair.member) == pytest.approx(wanted, rel=0.15)


def test_interval_holds_the_true_share_as_often_as_it_says():
    """AUC - 1/2 of mu 1.5 and 0.5 is .356 and .138; 95 % of 200, less four standard errors: 178."""
    from scipy.special import ndtr

    true = (ndtr(0.5 / np.sqrt(2)) - 0.5) / (ndtr(1.5 / np.sqrt(2)) - 0.5)
    found = [share_kept([gaussian(seed, 1.5, 0.5)]) for seed in range(200)]
    assert all(each is not None for each in found)
    assert sum(each.low <= true <= each.high for each in found) >= 178


def test_several_panels_and_one_comparison_narrow_it():
    pairs = [gaussian(seed, 1.0, 0.5) for seed in range(4)]
    one, four = share_kept(pairs[:1]), share_kept(pairs)
    assert four.high - four.low < 0.7 * (one.high - one.low)
    wider = share_kept(pairs, comparisons=4)
    assert wider.low < four.low <= four.share <= four.high < wider.high


def test_nothing_is_a_share_of_an_attack_that_guesses():
    assert share_kept([gaussian(3, 0.0, 0.0)]) is None
    assert share_kept([gaussian(3, -2.0, 0.0)]) is None
