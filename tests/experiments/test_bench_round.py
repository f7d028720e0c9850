"""The benchmark compares like with like and reports all it measured; no claim here is on time."""

import json

import numpy as np
import pytest
import torch

from experiments.bench_result import Budget
from experiments.bench_round import (
    AGAINST,
    FEDAVG,
    SELECTIVE,
    _Candidates,
    bench_round,
    cohorts_of,
)
from experiments.bench_workload import Workload
from experiments.command_line import main
from fedsim import ConfigError

TINY = Workload(devices=6, cohort=3, held_out=4)


@pytest.fixture(scope="module")
def measured():
    return bench_round(rounds=2, repeats=2, workers=0, workload=TINY)


class TestWorkload:
    def test_it_is_that_of_the_reference(self):
        people = Workload().population()
        model = Workload().model(people)
        sizes = people.activity()
        assert people.devices == 600
        assert sizes.min() >= 2
        assert sizes.max() <= 500
        assert sizes.mean() > 1.3 * np.median(sizes)
        assert set(people.train(0).lengths.tolist()) == {16}
        assert len(people.test) == 2000
        assert model.embedding.shape == (5000, 64)
        assert model.lstm_hh.shape[-1] == 128
        assert 0.55e6 < sum(p.numel() for p in model.parameters()) < 0.57e6

    def test_a_cohort_larger_than_the_population_is_refused(self):
        with pytest.raises(ConfigError, match="cohort is 7 of 6 devices; choose 1 to 6"):
            Workload(devices=6, cohort=7)


class TestCandidates:
    @pytest.mark.parametrize("name", [FEDAVG, SELECTIVE])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_bare_loop_ends_in_the_model_of_the_simulation(self, name, workers):
        candidates = _Candidates(TINY, rounds=3, workers=workers)
        run = candidates.warm[name]
        by_hand, seconds = candidates.bare(cohorts_of(run))
        assert len(seconds) == 3
        start = dict(candidates.model.named_parameters())
        for key, trained in run.model.items():
            torch.testing.assert_close(by_hand[key], trained, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(trained, start[key], rtol=1e-4, atol=1e-5)

    def test_the_bare_loop_trains_as_many_examples(self):
        candidates = _Candidates(TINY, rounds=2, workers=0)
        activity = candidates.people.activity()
        for name in (FEDAVG, SELECTIVE):
            trained = [int(activity[c].sum()) for c in cohorts_of(candidates.warm[name])]
            assert trained == candidates.examples(name) == candidates.examples(AGAINST[name])


class TestReport:
    def test_every_candidate_has_every_measurement(self, measured):
        said = json.loads(measured.json())
        assert [m["name"] for m in said["measurements"]] == [
            "bare loop, cohorts of FedAvg",
            "LocalGrid, FedAvg",
            "bare loop, cohorts of Selective",
            "LocalGrid, Selective(FedAvg)",
            "LocalGrid, Selective(FedAvg), probes every round",
        ]
        for m in said["measurements"]:
            assert np.shape(m["seconds"]) == (2, 2)
            assert m["median"] == pytest.approx(np.median(m["seconds"], axis=0).mean())
        assert said["machine"]["cores"] >= 1
        assert said["settings"]["workers"] == 0

    def test_ratios_are_of_rounds_run_in_turns_and_stand_in_the_budgets(self, measured):
        lines = {m.name: m for m in measured.measurements}
        for name, base in AGAINST.items():
            assert lines[name].against == base
            pairs = np.array(lines[name].seconds) / np.array(lines[base].seconds)
            assert lines[name].ratio == pytest.approx(np.median(pairs))
        assert [b.value for b in measured.budgets] == [lines[FEDAVG].ratio, lines[SELECTIVE].ratio]
        for budget in json.loads(measured.json())["budgets"]:
            assert set(budget) == {"name", "value", "budget", "met"}
            assert budget["met"] == (budget["value"] <= 1.10)

    def test_a_value_over_its_budget_is_said_to_be(self):
        assert not Budget(name="a / b", value=1.11, budget=1.10).met

    def test_the_command_prints_the_table_and_writes_the_file(
        self, measured, monkeypatch, capsys, tmp_path
    ):
        asked = {}

        def bench(**settings):
            asked.update(settings)
            return measured

        monkeypatch.setattr("experiments.bench_round.bench_round", bench)
        file = tmp_path / "round.json"
        words = ["--rounds", "3", "--repeats", "2", "--workers", "1", "--json", str(file)]
        assert main(["bench", "round", *words]) == 0
        assert asked == {"rounds": 3, "repeats": 2, "workers": 1}
        assert measured.markdown() in capsys.readouterr().out
        assert json.loads(file.read_text())["name"] == "round"

    @pytest.mark.parametrize("word", ["rounds", "repeats"])
    def test_nothing_to_time_is_refused(self, word, capsys):
        assert main(["bench", "round", f"--{word}", "0"]) == 2
        assert capsys.readouterr().err == f"fedsim: {word} is 0; choose 1 or more\n"
