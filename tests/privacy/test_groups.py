"""Pruned maxima and ranks against pricing every history."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy import groups as groups_module
from fedsim.privacy.groups import Groups
from fedsim.rng import stream

DELTA = 1e-5


def some_groups(seed, count=12, columns=3):
    random = stream(seed, "groups")
    rates = np.exp(random.uniform(np.log(1e-3), 0, (count, columns)))
    rates[random.random(rates.shape) < 0.2] = 0.0
    return Groups(
        rates=rates,
        noises=random.uniform(0.7, 3, (count, columns)),
        times=random.integers(0, 60, (count, columns)),
        members=random.integers(1, 9, count),
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_pruned_maximum_is_the_maximum(seed):
    groups = some_groups(seed)
    every = [groups.epsilon(g, DELTA) for g in range(len(groups.members))]
    found = groups.worst(groups.bounds(DELTA), DELTA, np.arange(len(every)))
    # Epsilons that differ by less than the transforms' grid may change places.
    assert found.epsilon == pytest.approx(max(every), rel=1e-3)
    assert found.exact


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_a_rank_is_bounded_from_above_and_no_looser_than_by_the_renyi_bounds(seed):
    """What is found is the cost of some device: the bounds only say which devices come first."""
    groups = some_groups(seed)
    every = np.array([groups.epsilon(g, DELTA) for g in range(len(groups.members))])
    bounds = groups.bounds(DELTA)
    rank = int(groups.members.sum()) // 2 + 1
    known, bound = (np.sort(np.repeat(v, groups.members))[rank - 1] for v in (every, bounds))
    found = groups.ranked(bounds, DELTA, rank)
    assert found.exact and found.epsilon == every[found.group]
    assert known * 0.999 <= found.epsilon <= bound


def test_a_rank_is_exact_where_the_bounds_order_devices_as_their_costs_do():
    count = 9
    groups = Groups(
        rates=np.linspace(0.01, 0.3, count)[:, None],
        noises=np.ones((count, 1)),
        times=np.full((count, 1), 20),
        members=np.arange(1, count + 1),
    )
    bounds = groups.bounds(DELTA)
    devices = np.repeat(np.arange(count), groups.members)
    for rank in (1, 2, 17, 45):
        found = groups.ranked(bounds, DELTA, rank)
        assert found.epsilon == groups.epsilon(int(devices[rank - 1]), DELTA)


def test_nearly_all_histories_are_left_unpriced(monkeypatch):
    """One period: likelier is costlier, so that a single price settles the maximum."""
    priced = []
    original = Groups.epsilon
    monkeypatch.setattr(
        Groups, "epsilon", lambda self, g, *rest: priced.append(g) or original(self, g, *rest)
    )
    count = 500
    groups = Groups(
        rates=np.linspace(0.2, 0.21, count)[:, None],
        noises=np.ones((count, 1)),
        times=np.full((count, 1), 100),
        members=np.ones(count, np.int64),
    )
    groups.worst(groups.bounds(DELTA), DELTA, np.arange(count))
    assert priced == [count - 1]


def test_beyond_the_limit_the_answer_is_a_bound_that_says_so(monkeypatch):
    monkeypatch.setattr(groups_module, "MOST_PRICED", 1)
    groups = near_equal(5)
    found = groups.worst(groups.bounds(DELTA), DELTA, np.arange(5))
    assert not found.exact
    assert found.epsilon >= max(groups.epsilon(g, DELTA) for g in range(5))


def near_equal(count):
    """None contains another: the rate falls in one column as it rises in the other."""
    up = np.linspace(0.05, 0.06, count)
    random = stream(0, "near-equal")
    return Groups(
        rates=np.stack([up, up[::-1], random.uniform(0.02, 0.022, count)], axis=1),
        noises=np.ones((count, 3)),
        times=np.full((count, 3), 30),
        members=np.ones(count, np.int64),
    )


def test_many_near_equal_histories_have_a_tight_bound(monkeypatch):
    """Their Renyi bounds lie 18 % above their costs; sets of them are priced instead."""
    monkeypatch.setattr(groups_module, "MOST_PRICED", 16)
    groups = near_equal(120)
    bounds = groups.bounds(DELTA)
    every = np.array([groups.epsilon(g, DELTA) for g in range(120)])
    assert bounds.max() > 1.15 * every.max()
    found = groups.worst(bounds, DELTA, np.arange(120))
    assert not found.exact
    assert every.max() <= found.epsilon < 1.03 * every.max()
    middle = groups.ranked(bounds, DELTA, 60)
    assert np.sort(every)[59] <= middle.epsilon < 1.05 * np.sort(every)[59]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40))
def test_what_stands_for_a_set_costs_no_less_than_any_of_it(seed, most):
    groups = some_groups(seed)
    every = max(groups.epsilon(g, DELTA) for g in range(len(groups.members)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(groups_module, "MOST_PRICED", most)
        everyone = np.arange(len(groups.members))
        found = groups.worst(groups.bounds(DELTA), DELTA, everyone)
    assert found.epsilon >= every * 0.999
    if found.exact:
        assert found.epsilon == pytest.approx(every, rel=1e-3)


def test_what_stands_for_a_set_is_priced_under_the_relation_that_was_asked_for(monkeypatch):
    """Else an audit of near-equal devices would be held against too small a claim."""
    monkeypatch.setattr(groups_module, "MOST_PRICED", 0)
    groups = near_equal(5)
    every = max(groups.epsilon(g, DELTA, "replace-one") for g in range(5))
    bounds = groups.bounds(DELTA, "replace-one")
    found = groups.worst(bounds, DELTA, np.arange(5), "replace-one")
    assert every <= found.epsilon <= bounds.max()
