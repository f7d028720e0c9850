"""What a chart says is what the record says, and a chart stands only where the run measured it."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from fedsim.leakage.success import auc
from fedsim.report.curves import curve
from fedsim.report.grouping import grouped
from fedsim.report.learning_charts import learning_charts
from fedsim.report.privacy_charts import attack_scores, largest, privacy_charts
from fedsim.report.round_charts import round_charts, shares


def by_name(charts):
    return {chart.name: chart for chart in charts}


def with_seed(run, seed, selection=None):
    config = deepcopy(run.config) | {"seed": seed}
    if selection:
        config["selection_label"] = selection
    return replace(run, config=config)


def slow_shares(run, first, last):
    """Participations of a device of each decile in rounds first..last - 1, by counting."""
    decile, offsets = run.devices["decile"], run.cohorts["drawn_offsets"]
    found = []
    for k in range(1, 11):
        members = [d for d in range(len(decile)) if decile[d] == k]
        drawn = [
            int(d) in members
            for r in range(first, last)
            for d in run.cohorts["drawn"][offsets[r] : offsets[r + 1]]
        ]
        chances = len(members) * (last - first)
        found.append(sum(drawn) / chances if chances else np.nan)
    return found


@pytest.mark.parametrize("blocks", [1, 2, 4, 24])
def test_participation_by_activity_and_round_is_what_was_drawn(private_run, blocks):
    starts, found = shares(private_run, blocks)
    ends = [*starts[1:] - 1, 4]
    for column, (first, last) in enumerate(zip(starts - 1, ends, strict=True)):
        np.testing.assert_allclose(found[:, column], slow_shares(private_run, first, last))


def test_active_devices_take_part_more_often(private_run):
    _, found = shares(private_run, 1)
    assert found[-1, 0] > found[0, 0]


def test_roc_is_of_the_scores_that_the_record_was_made_from(private_run):
    scores, member = attack_scores(private_run)["loss against the untrained model"]
    last = private_run.rounds[int(private_run.arrays("scores")["rounds"][-1]) - 1]
    assert auc(scores, member) == pytest.approx(last["mia_auc"])
    chart = by_name(privacy_charts(grouped([private_run])))["roc"]
    assert chart.diagonal
    assert chart.series[0].x[-1] == chart.series[0].y[-1] == 1


def test_epsilons_of_several_seeds_are_their_largest(private_run):
    dearer = with_seed(private_run, 1)
    lines = [line | {"epsilon_max": line["epsilon_max"] + 1} for line in dearer.rounds]
    (group,) = grouped([private_run, replace(dearer, rounds=lines)])
    _, own = curve(private_run, "epsilon_max", "rounds")
    np.testing.assert_allclose(largest(group, "epsilon_max", "").y, own + 1)


def test_histogram_counts_every_device_once(private_run):
    chart = by_name(privacy_charts(grouped([private_run])))["epsilon-device-histogram"]
    assert chart.series[0].y.sum() == 30
    bounds = private_run.arrays("ledger")["epsilon_bound"]
    last_bin = chart.series[0].x[-2]
    assert chart.series[0].y[-2] == (bounds >= last_bin).sum()


def test_a_budget_that_all_devices_claim_is_drawn_over_rounds_alone(private_run, monkeypatch):
    """What each was charged of it is no epsilon."""
    arrays = type(private_run).arrays
    spent = {"budget_spent": np.linspace(0, 1, 30)}
    monkeypatch.setattr(
        type(private_run),
        "arrays",
        lambda run, name: arrays(run, name) | (spent if name == "ledger" else {}),
    )
    found = by_name(privacy_charts(grouped([private_run])))
    assert "epsilon-device" in found
    assert not {"epsilon-device-histogram", "epsilon-over-activity"} & found.keys()


def test_heavy_devices_pay_more_than_light_ones_in_the_chart(private_run):
    chart = by_name(privacy_charts(grouped([private_run])))["epsilon-device"]
    ends = {one.label: one.y[-1] for one in chart.series}
    assert ends["heavy"] > ends["median"] > ends["light"]
    assert ends["worst device"] == private_run.rounds[-1]["epsilon_max"]


def test_a_run_without_privacy_or_leakage_has_no_such_charts(plain_run):
    assert privacy_charts(grouped([plain_run])) == []


def test_failures_are_drawn_where_there_are_any(plain_run, private_run):
    found = by_name(round_charts(grouped([plain_run])))
    failed = [line["failures"] for line in plain_run.rounds]
    assert sum(failed) > 0
    assert found["failures"].series[0].y.tolist() == failed
    drawn, arrived = found["cohort"].series
    assert (drawn.y - arrived.y).tolist() == failed
    assert "failures" not in by_name(round_charts(grouped([private_run])))


def test_learning_is_of_the_measured_rounds_in_percent(plain_run):
    found = by_name(learning_charts(grouped([plain_run])))
    first = found["learning"].series[0]
    assert first.x.tolist() == [2, 4]
    assert first.y[-1] == pytest.approx(100 * plain_run.rounds[-1]["intent_accuracy"])
    figures = plain_run.rounds[-1]["figures"]
    assert found["periods"].series[0].y.tolist() == pytest.approx(
        [100 * figures[f"periods/intent_accuracy_{k}"] for k in (1, 2)]
    )


def test_groups_are_compared_by_one_figure_and_look_the_same_in_every_chart(private_run):
    runs = [private_run, with_seed(private_run, 0, "uniform")]
    groups = grouped(runs)
    for chart in [*learning_charts(groups), *privacy_charts(groups), *round_charts(groups)]:
        assert [one.label for one in chart.series] == ["activity", "uniform"], chart.name
        assert [one.look for one in chart.series] == ["activity", "uniform"], chart.name
