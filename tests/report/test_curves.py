"""Curves read the record: only what was measured, against work that was really done."""

import numpy as np
import pytest
from fabricated import ACTIVITY, group, run

from fedsim.report.curves import band, curve, figure, measured, value_after, work


def test_only_measured_rounds_are_on_a_curve():
    at, values = measured(run(rounds=10, every=4), "intent_accuracy")
    assert at.tolist() == [3, 7, 9]
    assert not np.isnan(values).any()


def test_figures_of_probes_are_found_by_their_slash():
    line = {"slot_f1": 0.3, "figures": {"deciles/intent_accuracy_1": 0.1}}
    assert figure(line, "deciles/intent_accuracy_1") == 0.1
    assert figure(line, "slot_f1") == 0.3
    assert figure({"slot_f1": 0.3}, "devices/exact_match") is None


def test_work_is_counted_in_rounds_examples_and_participations():
    one = run("activity", rounds=5, config={"local_epochs": 3})
    assert work(one, "rounds").tolist() == [1, 2, 3, 4, 5]
    assert work(one, "participations").tolist() == [8, 16, 24, 32, 40]
    assert work(one, "examples").tolist() == [600, 1200, 1800, 2400, 3000]


def test_with_equal_local_steps_examples_are_steps_times_what_a_step_sees():
    one = run(rounds=3, config={"local_steps": 4})
    cohorts = one.cohorts["arrived"].reshape(3, 8)
    slow = [sum(4 * min(int(ACTIVITY[d]), 16) for d in cohort) for cohort in cohorts]
    assert work(one, "examples").tolist() == np.cumsum(slow).tolist()


def test_value_between_measurements_lies_on_the_line_and_none_outside():
    one = run(rounds=8, every=4)
    (first, last), (low, high) = curve(one, "intent_accuracy", "rounds")
    middle = value_after(one, "intent_accuracy", "rounds", (first + last) / 2)
    assert middle == pytest.approx((low + high) / 2)
    assert value_after(one, "intent_accuracy", "rounds", last + 1) is None
    assert value_after(one, "intent_accuracy", "rounds", first - 1) is None


def test_band_over_rounds_is_the_mean_of_the_seeds_where_they_were_measured():
    runs = group("sqrt", seeds=4)
    points, estimates = band(runs, "slot_f1", "rounds")
    values = [measured(one, "slot_f1")[1] for one in runs.runs]
    assert points.tolist() == list(range(4, 41, 4))
    assert [e.mean for e in estimates] == pytest.approx(np.mean(values, axis=0).tolist())
    assert all(e.count == 4 for e in estimates)


def test_finals_are_the_last_measured_values_by_seed():
    runs = group(seeds=2)
    last = {k: one.rounds[-1]["intent_accuracy"] for k, one in enumerate(runs.runs)}
    assert runs.finals("intent_accuracy") == last
    assert runs.final("never/measured") is None
