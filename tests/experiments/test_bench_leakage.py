"""The benchmark times the probe apart from the rounds it measures; no claim on time."""

import json

import numpy as np
import pytest

from experiments import bench_leakage
from experiments.bench_leakage import OPEN, PRIVATE, Timed, take
from experiments.bench_workload import Workload
from experiments.command_line import main
from fedsim.leakage import example_panel

TINY = Workload(devices=6, cohort=2, held_out=4)


def test_lines_and_budgets():
    measured = bench_leakage.bench_leakage(rounds=2, repeats=2, workers=0, size=20, workload=TINY)
    names = [m.name for m in measured.measurements]
    assert names == [
        f"{what}, {name}"
        for name in (OPEN, PRIVATE)
        for what in ("all but leakage probes", "leakage probes")
    ]
    assert all(np.shape(m.seconds) == (2, 2) for m in measured.measurements)
    budgets = json.loads(measured.json())["budgets"]
    assert [b["name"] for b in budgets] == [
        f"leakage probes / a round, {n}" for n in (OPEN, PRIVATE)
    ]
    assert [b["budget"] for b in budgets] == [0.30, 0.30]
    assert [b["value"] for b in budgets] == [m.ratio for m in measured.measurements[1::2]]


def test_a_round_and_its_probe_are_told_apart(monkeypatch):
    """By a clock that advances by 1 in the probe and by 10 in the rest of a round."""
    clock = iter(np.cumsum([10, 1] * 20).tolist())
    monkeypatch.setattr(bench_leakage, "_now", lambda: (float(next(clock)),) * 2)
    people = TINY.population()
    panel = example_panel(people, seed=0, size=20)
    strategy = bench_leakage._strategies(TINY.cohort)[OPEN]
    found = take(strategy, people, panel, TINY, rounds=3, workers=0)
    assert found.probes.tolist() == [[1.0, 1.0]] * 3
    assert found.rounds.tolist() == [[10.0, 10.0]] * 3


def test_a_timed_probe_says_what_the_probe_says():
    timed = Timed(probe=lambda finished: {"a/b": finished})
    assert timed(3) == {"a/b": 3}
    assert len(timed.moments) == 1


@pytest.mark.parametrize("option", ["--rounds", "--repeats"])
def test_nothing_to_time_is_refused(capsys, option):
    assert main(["bench", "leakage", option, "0"]) == 2
    assert "is 0; choose 1 or more" in capsys.readouterr().err
