"""Curves read the record: only what was measured, against work that was really done."""

from itertools import pairwise

import numpy as np
import pytest
from fabricated import ACTIVITY, cohort, group, run
from hypothesis import given
from hypothesis import strategies as st

from clients import NLUClient
from fedsim import Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from fedsim.report.curves import (
    band,
    curve,
    examples_served,
    figure,
    measured,
    value_after,
    work,
)
from fedsim.training.batches import shuffled, steps_of
from strategies import Selective, UniformSelection


def test_only_measured_rounds_are_on_a_curve():
    at, values = measured(run(rounds=10, every=4), "intent_accuracy")
    assert at.tolist() == [3, 7, 9]
    assert not np.isnan(values).any()


def test_figures_of_probes_are_found_by_their_slash():
    line = {"slot_f1": 0.3, "figures": {"deciles/intent_accuracy_1": 0.1}}
    assert figure(line, "deciles/intent_accuracy_1") == 0.1
    assert figure(line, "slot_f1") == 0.3
    assert figure({"slot_f1": 0.3}, "devices/exact_match") is None


@given(
    held=st.integers(0, 70),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 3),
    steps=st.none() | st.integers(1, 30),
)
def test_examples_served_are_those_of_the_batches_that_training_takes(
    held, batch_size, epochs, steps
):
    taken = steps_of(held, batch_size, epochs, steps)
    batches = shuffled(held, batch_size, taken, np.random.default_rng(0))
    slow = sum(len(indices) for indices in batches)
    assert examples_served(np.array([held]), batch_size, epochs, steps).tolist() == [slow]


def test_work_is_counted_in_rounds_examples_and_participations():
    one = run("activity", rounds=5, config={"local_epochs": 3})
    served = 3 * ACTIVITY[cohort("activity")].sum()
    assert work(one, "rounds").tolist() == [1, 2, 3, 4, 5]
    assert work(one, "participations").tolist() == [8, 16, 24, 32, 40]
    assert work(one, "examples").tolist() == [served * k for k in (1, 2, 3, 4, 5)]


def test_activity_of_the_rounds_own_period_counts_and_empty_cohorts_count_nothing():
    one = run("uniform", "continual", rounds=4, periods=2)
    one.devices["activity"][1] = 7
    one.cohorts["drawn"], one.cohorts["drawn_offsets"] = (
        np.array([0, 1, 2]),
        np.array([0, 1, 1, 3, 3]),
    )
    first = ACTIVITY[0]
    assert work(one, "examples").tolist() == [first, first, first + 14, first + 14]


def test_without_batches_in_the_record_each_example_of_a_line_counts_once():
    one = run(rounds=2, config={"local_epochs": 3})
    for config in ({}, {"simulation": {"client": {"class": "ClientApp"}}}):
        one.config = config
        total = one.rounds[0]["cohort_examples"]
        assert work(one, "examples").tolist() == [total, 2 * total]


@pytest.mark.parametrize("local", [{"local_epochs": 2}, {"local_steps": 3}])
def test_a_scripts_own_run_counts_what_its_optimizers_saw(local):
    from flwr.serverapp.strategy import FedAvg

    people = Population.load("home", devices=6)
    simulation = Simulation(
        population=people,
        model=BiLSTMTagger.sized_for(people),
        client=NLUClient(batch_size=8, **local),
        strategy=Selective(FedAvg(), UniformSelection(cohort=3)),
        schedule=Static(rounds=2),
        workers=0,
    )
    finished = simulation.run()
    offsets, drawn = finished.cohorts["drawn_offsets"], finished.cohorts["drawn"]
    slow = []
    for start, stop in pairwise(offsets):
        for device in drawn[start:stop]:
            held = int(people.activity(0)[device])
            steps = steps_of(held, 8, local.get("local_epochs", 1), local.get("local_steps"))
            slow += [len(b) for b in shuffled(held, 8, steps, np.random.default_rng(0))]
    assert work(finished, "examples")[-1] == sum(slow) > 0


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
