"""The price of activity: rows get the noise that they promise, and the table says what follows."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.options import RunOptions, population_of
from experiments.price_of_activity import PRESETS, preset_options, price_of_activity
from experiments.price_rows import effective_noise, noise_like, rows_of
from fedsim.privacy import Gaussian, epsilon
from strategies import ActivitySelection

OPTIONS = RunOptions(
    corpus="home", devices=40, cohort=4, rounds=5, dp="device", epsilon=4.0, local_steps=1,
    periods=2, evaluate_every=5, workers=0,
)  # fmt: skip
PAPER = PRESETS["paper"]


@pytest.fixture(scope="module")
def rows():
    return rows_of(
        OPTIONS, PAPER.policies, crossed=PAPER.crossed, public=PAPER.public,
        retired=PAPER.retired, budgets=PAPER.budgets,
    )  # fmt: skip


def test_rows_at_equal_noise_have_that_of_uniform_selection(rows):
    for setting in ("static", "continual"):
        own = [row for row in rows if row.options.setting == setting]
        target = next(effective_noise(row.options) for row in own if row.held == "both")
        noisy = [effective_noise(row.options) for row in own if row.held == "noise"]
        assert len(noisy) == 10
        np.testing.assert_allclose(noisy, target, rtol=1e-3)


def test_rows_at_equal_epsilon_have_the_target_and_no_noise_multiplier(rows):
    equal = [row for row in rows if row.held in ("both", "epsilon")]
    plain = [r.options for r in equal if r.variant in ("", "public scale")]
    assert {(o.epsilon, o.noise_multiplier) for o in plain} == {(4.0, None)}
    assert [r.options.device_budget for r in equal if r.variant == "retirement"] == [4.0, 4.0]
    budgets = {r.variant: r.options.budgets for r in equal if r.policy == "budgets"}
    assert budgets == {"per group": "1:.54,2:.37,4:.09", "per client": "0.5-4"}


def test_retirement_starts_with_the_noise_of_uniform_selection(rows):
    for setting in ("static", "continual"):
        own = [row for row in rows if row.options.setting == setting]
        target = next(effective_noise(row.options) for row in own if row.held == "both")
        (retired,) = [row.options for row in own if row.variant == "retirement"]
        unlimited = replace(retired, device_budget=None)
        assert effective_noise(unlimited) == pytest.approx(target, rel=1e-3)


def test_names_of_runs_are_unique_and_a_row_without_privacy_is_there(rows):
    assert len({row.cell(0).name for row in rows}) == len(rows)
    assert [row.options.dp for row in rows].count("none") == 2


def test_noise_that_a_policy_needs_follows_from_weights_and_rates():
    """sigma w_max / sum(q w) by hand, for weights by examples."""
    options = replace(OPTIONS, selection="activity", weighting="examples")
    activity = population_of(options).activity()
    rates, weights = ActivitySelection(cohort=4).rates(activity), activity / activity.max()
    assert noise_like(options, 0.25) == pytest.approx(0.25 * (rates @ weights), rel=1e-3)


def test_presets_can_be_run():
    for preset in PRESETS:
        assert preset_options(preset).dp == "device"
    assert preset_options("quick", {"epsilon": 3.0}).epsilon == 3.0


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("price")
    return price_of_activity(OPTIONS, "quick", out=folder, processes=1)


def cell(table, selection, held, key, setting="static", unit="device"):
    wanted = (unit, setting, selection, held)
    (row,) = [
        row
        for row in table.rows
        if (row["unit"], row["setting"], row["selection"], row["held"]) == wanted
    ]
    return row[key]


def test_at_equal_noise_the_most_active_device_pays_for_its_own_rate(table):
    activity = population_of(OPTIONS).activity()
    rate = ActivitySelection(cohort=4).rates(activity).max()
    sigma = cell(table, "activity", "noise", "noise_multiplier")
    step = Gaussian(noise_multiplier=sigma, rate=rate, steps=5)
    wanted = epsilon([step], delta=1e-5)
    assert cell(table, "activity", "noise", "epsilon_max") == pytest.approx(wanted, rel=0.01)
    assert cell(table, "activity", "noise", "worst_activity") == activity.max()
    assert cell(table, "activity", "noise", "epsilon_light") < 0.2 * wanted


def test_at_equal_epsilon_activity_selection_takes_more_noise(table):
    uniform = cell(table, "uniform", "noise, epsilon", "effective_noise")
    assert cell(table, "activity", "epsilon", "epsilon_max") == pytest.approx(4.0, rel=1e-3)
    assert cell(table, "activity", "epsilon", "effective_noise") > 1.2 * uniform
    assert cell(table, "activity", "noise", "effective_noise") == pytest.approx(uniform, rel=1e-3)


def test_where_all_devices_pay_the_same_none_is_named_worst(table):
    assert cell(table, "uniform", "noise, epsilon", "worst_activity") is None


def test_sentences_repeat_the_rows(table):
    price, bought, advice = table.notes[:3]
    worst = cell(table, "activity", "noise", "epsilon_max")
    assert f"an epsilon of {worst:.3g}, {worst / 4:.1f} times uniform selection's 4" in price
    ratio = cell(table, "activity", "epsilon", "effective_noise") / cell(
        table, "uniform", "noise, epsilon", "effective_noise"
    )
    assert f"needs {ratio:.1f} times the noise" in bought
    assert advice.startswith("So draw") and "report the worst device's epsilon" in advice


def test_figures_can_be_drawn(table):
    curves = table.figures()["epsilon-over-activity"].axes[0].lines
    assert [line.get_label() for line in curves] == ["uniform", "activity", "activity, cap 0.1"]
    points = table.figures()["accuracy-over-epsilon"].axes[0].lines
    assert len(points) == 10


def test_nobody_pays_more_than_the_target_in_any_row_at_equal_epsilon(table):
    equal = [row["epsilon_max"] for row in table.rows if "epsilon" in row["held"]]
    assert len(equal) == 2 * (1 + 2 + 1 + 1 + 1) + 2 * (1 + 2 + 1) and max(equal) <= 4.0
    assert cell(table, "activity, retirement", "epsilon", "epsilon_max") > 3.0


def test_notes_say_where_the_public_scale_and_the_budgets_are_from(table):
    (public,) = [note for note in table.notes if note.startswith("Public scale")]
    assert "was read off this corpus, which a deployment may not do" in public
    assert any("per group 1:.54,2:.37,4:.09" in note for note in table.notes)
