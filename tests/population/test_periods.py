"""Claims about cutting time and about what is kept of the past."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population.periods import Keep, cut_evenly

KEEPS = st.sampled_from(["current", "all", "window:1", "window:3", "reservoir:1", "reservoir:4"])
HISTORIES = st.lists(st.integers(0, 5), max_size=40).map(sorted).map(np.array)


@given(total=st.integers(1, 200), periods=st.integers(1, 20))
def test_equal_cuts_differ_by_at_most_one_and_never_go_back(total, periods):
    period = cut_evenly(np.arange(total), total, periods)
    sizes = np.bincount(period, minlength=periods)
    assert len(sizes) == periods
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(period) >= 0).all()


@given(history=HISTORIES, period=st.integers(0, 5), text=KEEPS, device=st.integers(0, 9))
def test_activity_equals_what_is_selected(history, period, text, device):
    keep = Keep.parse(text)
    history = history.astype(np.int64)
    counts = np.bincount(history, minlength=6)[None]
    assert keep.held(counts, period)[0] == len(keep.select(history, period, 3, device))


@given(history=HISTORIES, text=KEEPS)
def test_what_was_dropped_never_returns(history, text):
    keep = Keep.parse(text)
    history = history.astype(np.int64)
    dropped: set[int] = set()
    for period in range(6):
        held = set(keep.select(history, period, seed=1, device=2).tolist())
        assert held.isdisjoint(dropped)
        assert not any(history[i] > period for i in held), "nobody holds the future"
        dropped |= set(np.flatnonzero(history <= period).tolist()) - held


def test_each_way_of_keeping_holds_what_its_name_says():
    history = np.array([0, 0, 0, 1, 1, 2])
    counts = np.bincount(history)[None]
    held = {
        text: Keep.parse(text).select(history, 2, seed=0, device=0).tolist()
        for text in ("current", "window:2", "all")
    }
    assert held == {"current": [5], "window:2": [3, 4, 5], "all": [0, 1, 2, 3, 4, 5]}
    reservoir = Keep.parse("reservoir:2").select(history, 2, seed=0, device=0)
    assert len(reservoir) == 3 and reservoir[-1] == 5
    assert Keep.parse("reservoir:2").held(counts, 2).tolist() == [3]


def test_reservoir_samples_the_past_uniformly():
    history = np.repeat([0, 1], [8, 1])
    keep = Keep.parse("reservoir:2")
    kept = np.concatenate([keep.select(history, 1, seed, 0)[:-1] for seed in range(2000)])
    # 4000 places over 8 examples: 500 each, standard deviation below 20; 100 is five of them.
    assert np.abs(np.bincount(kept, minlength=8) - 500).max() < 100


@pytest.mark.parametrize(
    "text",
    ["", "curent", "window", "window:0", "window:-1", "window:x", "reservoir:", "all:", "all:2"],
)
def test_any_other_keep_is_refused(text):
    with pytest.raises(ConfigError, match="expected current, all, window:k"):
        Keep.parse(text)


@pytest.mark.parametrize("text", ["current", "all", "window:3", "reservoir:50"])
def test_keep_reads_what_it_prints(text):
    assert str(Keep.parse(text)) == text
