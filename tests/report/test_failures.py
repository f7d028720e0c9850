"""Failures are counted where a reader looks, by stage, simulated ones apart from the others."""

from types import SimpleNamespace

import pytest

from fedsim import Faults
from fedsim.describe import describe
from fedsim.report.failures import failure_notes


def run(faults, *figures):
    """A run of rounds of ten devices; figures count what failed by stage."""
    rounds = [{"cohort_size": 10, "figures": each} for each in figures]
    return SimpleNamespace(config={"simulation": {"faults": describe(faults)}}, rounds=rounds)


def test_a_run_without_failures_and_faults_needs_no_note():
    assert failure_notes(run(None, {}, {"probe/failures": 3})) == []


def test_real_failures_are_counted_by_stage():
    lines = [{"failures/train": 2, "failures/reply": 1}, {"failures/reply": 3}]
    assert failure_notes(run(None, *lines)) == [
        "6 of 20 trainings on devices failed (4 reply, 2 train)"
    ]


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(dropout=0.3, nan=0.05), "dropout=0.3,nan=0.05"),
        (Faults(deadline=2), "deadline=2,speed=100,spread=1"),
        (Faults(error=0.1, deadline=2, spread=0), "error=0.1,deadline=2,speed=100,spread=0"),
    ],
)
def test_simulated_faults_are_said_so_that_they_can_be_given_again(faults, said):
    lines = [
        {"faults/dropout": 2, "faults/reply": 1, "faults/simulated_seconds": 2.0},
        {"faults/dropout": 3},
    ]
    assert Faults.parse(said) == faults
    assert failure_notes(run(faults, *lines)) == [
        f"faults were simulated ({said}): by them 6 of 20 trainings on devices failed "
        "(5 dropout, 1 reply)"
    ]


def test_faults_that_hit_nobody_are_said_too():
    (text,) = failure_notes(run(Faults(error=0.01), {}))
    assert text == "faults were simulated (error=0.01): by them 0 of 10 trainings on devices failed"


def test_real_failures_are_not_put_down_to_simulated_faults():
    _, real = failure_notes(run(Faults(nan=0.1), {"faults/reply": 1, "failures/reply": 2}))
    assert real == "beside the simulated faults, 2 of 10 trainings on devices failed (2 reply)"


def test_evaluations_and_aggregates_are_no_trainings():
    assert failure_notes(run(None, {"failures/evaluate": 4, "failures/aggregate": 1})) == [
        "evaluations on devices that failed: 4",
        "aggregates that were refused, so that the model stayed as it was: 1",
    ]
