"""Failed devices are counted where a reader looks, by stage where faults were simulated."""

from types import SimpleNamespace

import pytest

from fedsim import Faults
from fedsim.describe import describe
from fedsim.report.failures import failure_notes


def run(faults, *figures):
    """A run of rounds of ten devices; figures count the failed ones by stage."""
    rounds = [
        {"failures": sum(n for name, n in each.items() if "seconds" not in name)}
        | {"cohort_size": 10, "figures": each}
        for each in figures
    ]
    return SimpleNamespace(config={"simulation": {"faults": describe(faults)}}, rounds=rounds)


def test_a_run_without_failures_and_faults_needs_no_note():
    assert failure_notes(run(None, {}, {})) == []


def test_real_failures_are_counted():
    found = run(None, {})
    found.rounds[0]["failures"] = 3
    assert failure_notes(found) == ["3 of 10 trainings on devices failed"]


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(dropout=0.3, nan=0.05), "dropout=0.3,nan=0.05"),
        (Faults(deadline=2), "deadline=2,speed=100,spread=1"),
    ],
)
def test_simulated_faults_are_said_and_counted_by_stage(faults, said):
    lines = [
        {"faults/dropout": 2, "faults/reply": 1, "faults/simulated_seconds": 2.0},
        {"faults/dropout": 3},
    ]
    assert failure_notes(run(faults, *lines)) == [
        f"faults were simulated ({said}): 6 of 20 trainings on devices failed (5 dropout, 1 reply)"
    ]


def test_faults_that_hit_nobody_are_said_too():
    (text,) = failure_notes(run(Faults(error=0.01), {}))
    assert text == "faults were simulated (error=0.01): 0 of 10 trainings on devices failed"
