"""A run that is killed, anywhere and again and again, ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from killed import reading, simulation
from same_run import assert_same_run

from fedsim.record import is_finished
from fedsim.rng import stream

SCRIPT = Path(__file__).with_name("killed.py")
FROM_HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SCRIPT.parents[1:3]))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return simulation().run(tmp_path_factory.mktemp("whole") / "run")


def killed_in_write(folder: Path, n: int, *which: str) -> None:
    command = [sys.executable, SCRIPT, str(folder), str(n), *which]
    done = subprocess.run(command, env=FROM_HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL or is_finished(folder), done.stderr


def killed_by_the_clock(folder: Path, wait: float) -> None:
    """Kill a process some seconds after it has begun to write rounds."""
    log = folder / "rounds.jsonl"
    before = log.stat().st_size if log.exists() else 0
    command = [sys.executable, SCRIPT, str(folder), "0"]
    with subprocess.Popen(command, env=FROM_HERE) as process:
        while process.poll() is None and not (log.exists() and log.stat().st_size > before):
            time.sleep(0.001)
        time.sleep(wait)
        process.kill()
    # A run that was quicker than the clock is a finished one: nothing is lost either.
    assert process.returncode in (-signal.SIGKILL, 0)


def kill(folder: Path, times: int, seed: int) -> None:
    """Kill a run at random moments, going on after each."""
    draw = stream(seed, "kills")
    for k in range(times):
        if k % 3 == 2:
            killed_by_the_clock(folder, draw.uniform(0, 0.2))
        else:
            killed_in_write(folder, int(draw.integers(1, 25)))


def test_a_run_that_is_killed_three_times_ends_as_if_nothing_had_happened(tmp_path, uninterrupted):
    kill(tmp_path / "run", times=3, seed=0)
    assert_same_run(simulation().run(tmp_path / "run", resume=True), uninterrupted)


def test_a_killed_run_whose_rates_and_noise_follow_releases_goes_on_with_what_it_has_read(tmp_path):
    whole = reading().run(tmp_path / "whole")
    spent = [line["figures"]["privacy/budget_spent_max"] for line in whole.rounds]
    assert len(whole.cohorts["rates"]) > 3
    for n in (40, 60):
        killed_in_write(tmp_path / "run", n, "reading")
    assert_same_run(reading().run(tmp_path / "run", resume=True), whole)
    assert 0.9 < spent[-1] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_so_does_one_that_is_killed_five_times(tmp_path, uninterrupted, seed):
    kill(tmp_path / "run", times=5, seed=seed)
    assert_same_run(simulation().run(tmp_path / "run", resume=True), uninterrupted)


@pytest.mark.slow
def test_rates_and_cohorts_of_a_killed_run_are_not_written_again(tmp_path):
    killed_in_write(tmp_path / "run", 60)
    rates = tmp_path / "run" / "checkpoint" / "rates-000001.npy"
    before = rates.stat().st_mtime_ns
    killed_in_write(tmp_path / "run", 30)
    assert rates.stat().st_mtime_ns == before
    assert np.load(rates).shape == (12,)
