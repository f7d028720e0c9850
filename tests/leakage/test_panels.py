"""Panels: fair coins, chosen without looking, that change nothing but the records they decide."""

import numpy as np
import pytest
from scipy.stats import binomtest

from fedsim.errors import ConfigError
from fedsim.leakage.panel import GROUPS
from fedsim.leakage.panels import (
    SCORED_ROWS,
    activity_groups,
    device_panel,
    example_panel,
)
from fedsim.population import Keep, Population
from fedsim.population.examples import concatenate

PEOPLE = Population.load("home", devices=30)
KEEPS = ["current", "window:2", "reservoir:7", "all"]
CUTS = [(1, "device"), (4, "device"), (4, "clock")]


def everything(people):
    return concatenate([people.train(device) for device in range(people.devices)])


def said(examples):
    """Words of each example."""
    return [
        examples.token_ids[a:b].tolist()
        for a, b in zip(examples.offsets[:-1], examples.offsets[1:], strict=True)
    ]


@pytest.mark.parametrize("cut", CUTS)
def test_excluded_examples_alone_are_null(cut):
    people = PEOPLE.cut(*cut)
    panel = example_panel(people, seed=3, size=60)
    null = everything(panel.applied(people)).null
    assert np.flatnonzero(null).tolist() == panel.rows[~panel.included].tolist()
    assert 10 < null.sum() < 50


def test_a_panel_is_the_same_under_every_cut_and_keep():
    whole = example_panel(PEOPLE, seed=3, size=60)
    for periods, by in CUTS:
        for keep in KEEPS:
            other = example_panel(PEOPLE.cut(periods, by, Keep.parse(keep)), seed=3, size=60)
            for name, array in whole.arrays().items():
                assert np.array_equal(array, other.arrays()[name])


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("choose", [example_panel, device_panel])
def test_what_a_device_holds_is_the_same_records_with_and_without_the_coins(choose, keep):
    people = PEOPLE.cut(4, "device", Keep.parse(keep))
    panel = choose(people, seed=3, size=20)
    applied = panel.applied(people)
    assert np.array_equal(applied.counts, people.counts)
    null = panel.excluded(people)
    for device in np.unique(panel.device).tolist():
        start, own = people.starts[device], len(people.train(device))
        for period in range(4):
            before, after = (p.held(device, period, seed=9) for p in (people, applied))
            assert len(after) == applied.activity(period)[device]
            assert said(after) == said(before)
            held = people.keep.select(people.train(device).period, period, 9, device)
            assert after.null.tolist() == null[start : start + own][held].tolist()


def test_an_excluded_example_that_a_reservoir_dropped_never_returns():
    people = PEOPLE.cut(4, "device", Keep.parse("reservoir:3"))
    panel = example_panel(people, seed=3, size=200)
    applied = panel.applied(people)
    for device in np.unique(panel.device).tolist():
        periods = people.train(device).period
        kept = [set(people.keep.select(periods, p, 9, device).tolist()) for p in range(4)]
        for period in range(1, 3):
            dropped = {i for i in kept[period - 1] if i not in kept[period]}
            assert not dropped & kept[period + 1]
        assert len(applied.held(device, 3, seed=9)) == len(kept[3])


@pytest.mark.parametrize("cut", CUTS)
def test_scored_examples_keep_the_content_that_the_coins_took_out(cut):
    people = PEOPLE.cut(*cut)
    panel = example_panel(people, seed=3, size=60)
    scored = panel.examples(people)
    assert said(scored) == [said(everything(people))[row] for row in panel.rows]
    assert scored.device.tolist() == panel.device.tolist()
    assert not scored.null.any()


def test_groups_hold_a_third_of_the_utterances_each_and_are_ordered_by_activity():
    people = Population.load("home", devices=400)
    totals, groups = people.counts.sum(1), activity_groups(people)
    for k in range(len(GROUPS)):
        mass = totals[groups == k].sum()
        assert abs(mass - totals.sum() / 3) <= totals.max()
    assert totals[groups == 0].max() <= totals[groups == 1].min()
    assert totals[groups == 1].max() <= totals[groups == 2].min()


def test_members_are_spread_evenly_over_the_groups():
    people = Population.load("home", devices=400)
    panel = example_panel(people, seed=0, size=300)
    assert np.bincount(panel.group).tolist() == [100, 100, 100]
    assert np.array_equal(panel.group, activity_groups(people)[panel.device])
    assert len(np.unique(panel.rows)) == 300


def test_within_a_group_every_example_is_equally_likely():
    """Shares of the first half of a group's examples over 40 panels; wrong once in 1e4."""
    starts, groups = PEOPLE.starts, activity_groups(PEOPLE)
    owner = np.repeat(np.arange(PEOPLE.devices), np.diff(starts))
    light = np.flatnonzero(groups[owner] == 0)
    first = set(light[: len(light) // 2].tolist())
    rows = np.concatenate([example_panel(PEOPLE, seed=s, size=30).rows for s in range(40)])
    rows = rows[np.isin(rows, light)]
    hits = sum(row in first for row in rows.tolist())
    assert binomtest(hits, len(rows), len(first) / len(light)).pvalue > 1e-4


def test_a_group_with_too_few_members_is_filled_up_by_the_others():
    people = Population.load("home", devices=2)
    total = int(people.starts[-1])
    panel = example_panel(people, seed=0, size=total)
    assert panel.rows.tolist() == list(range(total))


def test_coins_are_fair_and_differ_between_runs_and_reference_models():
    panels = [example_panel(PEOPLE, seed=s, size=200) for s in range(20)]
    heads = sum(int(panel.included.sum()) for panel in panels)
    assert binomtest(heads, 4000).pvalue > 1e-4
    references = [panels[0].redrawn(0, k) for k in (1, 2)]
    coins = [panels[0].included, *(r.included for r in references)]
    for i in range(3):
        for j in range(i):
            assert 60 < (coins[i] == coins[j]).sum() < 140
    assert all(np.array_equal(r.rows, panels[0].rows) for r in references)


def test_an_excluded_device_is_null_altogether_and_others_not_at_all():
    panel = device_panel(PEOPLE, seed=1, size=12)
    applied = panel.applied(PEOPLE)
    out = set(panel.device[~panel.included].tolist())
    assert 0 < len(out) < 12
    for device in range(PEOPLE.devices):
        assert set(applied.train(device).null.tolist()) == {device in out}


def test_a_device_is_scored_on_a_few_of_its_own_utterances():
    panel = device_panel(PEOPLE, seed=1, size=12)
    owner = np.searchsorted(PEOPLE.starts, panel.rows, side="right") - 1
    assert np.array_equal(owner, panel.device[panel.member])
    held = np.diff(PEOPLE.starts)[panel.device]
    assert np.bincount(panel.member).tolist() == np.minimum(held, SCORED_ROWS).tolist()


def test_a_members_score_is_the_mean_over_its_rows_that_count():
    panel = device_panel(PEOPLE, seed=1, size=12)
    scores = np.arange(len(panel.rows), dtype=float)
    counted = (scores % 3 == 0) & (panel.member != 4)
    found = panel.per_member(scores, counted)
    assert np.isnan(found[4])
    for k in range(12):
        own = scores[(panel.member == k) & counted]
        assert len(own) == 0 or found[k] == pytest.approx(own.mean())


def test_panels_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="size is 31, but the population has 30 devices"):
        device_panel(PEOPLE, seed=0, size=31)
    with pytest.raises(ConfigError, match="size is 0"):
        example_panel(PEOPLE, seed=0, size=0)
    nulled = PEOPLE.nulled(np.arange(PEOPLE.starts[-1]) == 0)
    with pytest.raises(ConfigError, match="null records already"):
        example_panel(nulled, seed=0, size=10)
