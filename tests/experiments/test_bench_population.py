"""The benchmark does the same work at every size and reports all it measured; no claim on time."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.bench_population import Rounds, bench_population, run_rounds
from experiments.command_line import main
from fedsim.population.home import home
from fedsim.probes import Accuracy
from fedsim.training import LocalTrainer
from strategies import ActivitySelection, UniformSelection


@pytest.fixture(scope="module")
def measured():
    """Two sizes and the activity line, a process each."""
    return bench_population(rounds=1, repeats=1, workers=0, sizes=(20, 60), cohort=4)


def rounds(devices, policy):
    return run_rounds(Rounds(devices=devices, policy=policy, rounds=3, workers=0))


class TestRounds:
    @pytest.mark.parametrize("devices", [20, 200])
    def test_every_size_trains_one_batch_on_as_many_devices(self, devices, monkeypatch):
        cohorts = []

        def noted(self, parameters, *, device, round, **rest):
            cohorts.append((round, device))
            return trained(self, parameters, device=device, round=round, **rest)

        trained = LocalTrainer.train
        monkeypatch.setattr(LocalTrainer, "train", noted)
        taken = rounds(devices, UniformSelection(cohort=4))
        activity = home(devices=devices).activity()
        # The first round warms up, the last one is measured.
        for round, examples in enumerate(taken.examples, start=2):
            drawn = [device for r, device in cohorts if r == round]
            assert len(drawn) == 4
            assert examples == sum(min(16, activity[device]) for device in drawn)
        assert len(taken.examples) == len(taken.seconds) == 3

    def test_nothing_but_the_last_round_is_measured(self, monkeypatch):
        measured = []
        probe = Accuracy.__call__
        monkeypatch.setattr(
            Accuracy,
            "__call__",
            lambda self, finished: (
                measured.append((finished.round, bool(probe(self, finished)))) or {}
            ),
        )
        rounds(20, UniformSelection(cohort=4))
        assert [round for round, due in measured if due and round] == [5]

    def test_a_peak_is_that_of_its_own_process_and_stays(self):
        mine = np.ones(1_000_000_000, np.uint8)
        script = """
import numpy as np
from experiments.bench_population import peak_bytes
before = peak_bytes()
block = np.ones(400_000_000, np.uint8)
del block
print(before, peak_bytes())
"""
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        before, after = map(int, said.stdout.split())
        assert before < len(mine)
        assert 350_000_000 < after - before < 450_000_000


class TestReport:
    def test_the_largest_is_compared_with_the_smallest(self, measured):
        small, large, activity = measured.measurements
        assert [m.name for m in measured.measurements] == [
            "20 devices, uniform selection",
            "60 devices, uniform selection",
            "60 devices, activity selection",
        ]
        ratio = np.median(np.array(large.seconds) / np.array(small.seconds))
        speed, memory = measured.budgets
        assert speed.value == large.ratio == pytest.approx(ratio)
        assert speed.budget == 1.2
        assert large.against == activity.against == small.name
        peaks = [peak for m in measured.measurements for peak in m.peak_bytes]
        assert memory.value == pytest.approx(max(peaks) / 1e9)
        assert memory.budget == 2.0

    def test_the_file_and_the_table_show_memory_and_examples(self, measured):
        said = json.loads(measured.json())
        for m in said["measurements"]:
            assert np.shape(m["seconds"]) == np.shape(m["examples"]) == (1, 1)
            assert 4 <= m["examples"][0][0] <= 64
            assert m["peak_bytes"][0] > 50_000_000
        assert "| peak memory |" in measured.markdown()
        assert said["settings"]["cohort"] == 4

    def test_the_command_takes_no_other_simulator(self, capsys):
        assert main(["bench", "population", "--pfl-python", "/a/python"]) == 2
        assert "leave it out here" in capsys.readouterr().err

    @pytest.mark.parametrize("word", ["rounds", "repeats"])
    def test_nothing_to_time_is_refused(self, word, capsys):
        assert main(["bench", "population", f"--{word}", "0"]) == 2
        assert capsys.readouterr().err == f"fedsim: {word} is 0; choose 1 or more\n"


def test_activity_selection_draws_heavier_devices():
    light = rounds(200, UniformSelection(cohort=8)).examples
    heavy = rounds(200, ActivitySelection(cohort=8)).examples
    assert sum(heavy) > sum(light)
