"""Budgets on the command line: who is dealt which, what follows, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.budget_options import dealt
from experiments.command_line import main
from experiments.options import RunOptions, check_options, policy_of, strategy_of
from fedsim import ConfigError

GROUPS = "1:.5,4:.25,8:.25"
OPTIONS = RunOptions(devices=40, cohort=4, rounds=4, dp="device", selection="budgets", delta=1e-3)


def changed(**changes):
    return replace(OPTIONS, **{"budgets": GROUPS} | changes)


def test_groups_have_their_shares_and_a_range_its_ends():
    values, counts = np.unique(dealt(GROUPS, 40, seed=0), return_counts=True)
    assert dict(zip(values, counts, strict=True)) == {1.0: 20, 4.0: 10, 8.0: 10}
    spread = dealt("1-8", 40, seed=0)
    assert (min(spread), max(spread)) == (1.0, 8.0)
    assert np.median(spread) == pytest.approx(8**0.5, rel=0.05)


def test_devices_are_dealt_their_budgets_whatever_the_seed_of_the_run():
    assert policy_of(changed(seed=3)).budgets == policy_of(changed(seed=4)).budgets
    assert dealt(GROUPS, 40, seed=1) != dealt(GROUPS, 40, seed=0)


def test_the_noise_is_the_one_at_which_the_cohort_spends_the_budgets():
    selective = strategy_of(changed())
    assert selective.policy.cohort == pytest.approx(4, rel=0.01)
    assert selective.mechanism.noise_multiplier == selective.policy.noise_multiplier


def test_nobody_ends_above_its_budget(tmp_path):
    given = "--devices 40 --cohort 4 --rounds 4 --dp device --delta 1e-3 --local-steps 1"
    out = tmp_path / "run"
    chosen = ["--selection", "budgets", "--budgets", GROUPS, "--workers", "0", "--out", str(out)]
    assert main(["run", *given.split(), *chosen]) == 0
    bounds = np.load(out / "ledger.npz")
    budgets = np.array(dealt(GROUPS, 40, seed=0))[bounds["devices"]]
    assert (bounds["epsilon"] <= budgets).all() and (bounds["epsilon"] > 0.98 * budgets).all()


def test_a_device_retires_and_a_run_stops_within_budgets_given_on_the_command_line(tmp_path):
    given = "--devices 40 --cohort 4 --rounds 8 --dp device --delta 1e-3 --local-steps 1"
    words = ["run", *given.split(), "--selection", "activity", "--workers", "0"]
    assert main([*words, "--device-budget", "4", "--out", str(tmp_path / "retired")]) == 0
    lines = (tmp_path / "retired" / "rounds.jsonl").read_text().splitlines()
    spent = [json.loads(line)["epsilon_max"] for line in lines]
    assert len(spent) == 8 and max(spent) <= 4.0
    rates = np.load(tmp_path / "retired" / "cohorts.npz")["rates"]
    assert (rates[0] > 0).sum() > (rates[-1] > 0).sum(), "nobody retired"
    assert main([*words, "--run-budget", "8", "--out", str(tmp_path / "stopped")]) == 0
    lines = (tmp_path / "stopped" / "rounds.jsonl").read_text().splitlines()
    assert 0 < len(lines) < 8 and json.loads(lines[-1])["epsilon_max"] <= 8.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"selection": "uniform"}, "--selection uniform does not use; choose --selection budgets"),
        ({"budgets": None}, "selection is budgets, and there are none; add --budgets"),
        ({"budgets": "2"}, "budgets is '2'; expected epsilon:share pairs"),
        ({"budgets": "8-1"}, "budgets is '8-1'; expected"),
        ({"budgets": "2:.5,2:.5"}, "name an epsilon twice"),
        ({"budgets": "2:.5,inf:.5"}, "expected epsilon:share pairs"),
        ({"budgets": "2:.5,4:.4"}, "sum to 0.9; let them sum to 1"),
        ({"dp": "none", "delta": None}, "dp is none; --selection budgets needs --dp device"),
        ({"draw": "fixed"}, "draw is fixed; --selection budgets needs --draw poisson"),
        ({"weighting": "examples"}, "weighting is examples; --selection budgets needs equal"),
        ({"epsilon": 3.0}, "epsilon is 3.0, but --budgets and --cohort fix the noise"),
        ({"noise_multiplier": 1.0}, "noise-multiplier is 1.0, but --budgets and"),
    ],
)
def test_what_budgets_cannot_go_with_is_refused_without_reading_a_corpus(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_options(changed(corpus="nowhere.csv", **changes))


def test_budgets_of_a_privacy_that_was_not_asked_for_are_refused():
    with pytest.raises(ConfigError, match="device-budget is 4\\.0, which --dp none does not use"):
        check_options(RunOptions(device_budget=4.0))
    with pytest.raises(ConfigError, match="run_budget is -1\\.0; choose an epsilon above 0"):
        check_options(RunOptions(dp="device", run_budget=-1.0))
