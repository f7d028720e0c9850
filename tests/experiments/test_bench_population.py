"""The benchmark does the same work at every size and reports all it measured; no claim on time."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.bench_population import FullBatches, Rounds, _budgets, bench_population, run_rounds
from experiments.bench_result import Measurement
from experiments.command_line import main
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
    def test_every_size_trains_one_full_batch_on_as_many_devices(self, devices, monkeypatch):
        served = []

        def noted(self, held, *, device, round):
            for batch in batches(self, held, device=device, round=round):
                served.append((round, device, len(batch["intents"])))
                yield batch

        batches = LocalTrainer.batches
        monkeypatch.setattr(LocalTrainer, "batches", noted)
        taken = rounds(devices, UniformSelection(cohort=4))
        # The first round warms up, the last one is measured.
        for round in (2, 3, 4):
            assert [size for r, _, size in served if r == round] == [16] * 4
            assert len({device for r, device, _ in served if r == round}) == 4
        assert taken.examples == [64] * 3
        assert len(taken.seconds) == 3

    def test_processor_time_is_that_of_the_timed_rounds(self):
        before = time.process_time()
        taken = rounds(20, UniformSelection(cohort=4))
        assert len(taken.cpu_seconds) == 3
        assert min(taken.cpu_seconds) > 0
        assert sum(taken.cpu_seconds) < time.process_time() - before

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
        assert memory.value == max(peaks) / 1e9
        assert memory.budget == 2.0

    def test_memory_is_judged_by_the_worst_process_of_any_line(self):
        lines = [
            Measurement(name=name, seconds=[[1.0]] * 3, examples=[[1]] * 3, peak_bytes=peaks)
            for name, peaks in (("a", [1, 1, 5 * 10**9]), ("b", [1]), ("c", [2 * 10**9] * 3))
        ]
        memory = _budgets(lines)[-1]
        assert (memory.name, memory.value, memory.met) == ("peak memory in GB, a", 5.0, False)

    def test_the_file_and_the_table_show_memory_and_examples(self, measured):
        said = json.loads(measured.json())
        for m in said["measurements"]:
            assert np.shape(m["seconds"]) == np.shape(m["cpu_seconds"]) == (1, 1)
            assert m["examples"] == [[64]]
            assert m["peak_bytes"][0] > 50_000_000
        table = measured.markdown().splitlines()
        assert (
            table[0] == "| a round of | seconds | CPU seconds | examples/s | peak memory | ratio |"
        )
        assert {line.count("|") for line in table[:5]} == {7}
        large = measured.measurements[1]
        cells = [f"{large.median:.3f}", f"{large.cpu_seconds[0][0]:.3f}"]
        assert table[3].split(" | ")[1:3] == cells
        assert said["settings"]["cohort"] == 4

    def test_the_command_takes_no_other_simulator(self, capsys):
        assert main(["bench", "population", "--pfl-python", "/a/python"]) == 2
        assert "leave it out here" in capsys.readouterr().err

    @pytest.mark.parametrize("word", ["rounds", "repeats"])
    def test_nothing_to_time_is_refused(self, word, capsys):
        assert main(["bench", "population", f"--{word}", "0"]) == 2
        assert capsys.readouterr().err == f"fedsim: {word} is 0; choose 1 or more\n"


def test_devices_with_a_full_batch_are_drawn_as_the_policy_says_and_others_never():
    activity = np.array([0, 15, 16, 32, 80])
    policy = FullBatches(policy=ActivitySelection(cohort=1), examples=16)
    np.testing.assert_allclose(policy.rates(activity), [0, 0, 0.125, 0.25, 0.625])
    assert (policy.cohort, policy.label, policy.natural_weighting) == (1, "activity", "equal")
