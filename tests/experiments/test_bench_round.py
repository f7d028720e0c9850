"""The benchmark compares like with like and reports all it measured; no claim here is on time."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.bench_candidates import FEDAVG, RECORDED, SELECTIVE, Candidates, cohorts_of
from experiments.bench_peers import PFL, RAY, RAY_APP, RAY_TUNED, Peer, PeerError, installed
from experiments.bench_result import Budget, Measurement, interval_of_rounds
from experiments.bench_round import AGAINST, LOOPS, bench_round
from experiments.bench_workload import Workload
from experiments.command_line import main
from experiments.peers.plain_loop import plain_loop
from experiments.peers.tagger import Task
from fedsim import ConfigError
from fedsim.record.checkpoint import Checkpoints
from fedsim.rng import stream, torch_generator

TINY = Workload(devices=6, cohort=3, held_out=4)


SLEEPER = "import json, sys; n = int(sys.argv[2]); "
"""Starts a script that plays a peer; its rounds take 1, 2, ... seconds, or so it says."""

SAYS = "print(json.dumps({'seconds': list(range(1, n + 1)), 'examples': [10] * n}))"

TRAINS = """
from experiments.peers.tagger import Task
task = Task.load(sys.argv[1])
examples = [sum(len(task.devices[d].intents) for d in cohort) for cohort in task.cohorts[:n]]
print(json.dumps({'seconds': list(range(1, n + 1)), 'examples': examples}))
"""
"""Trains the cohorts it is told to, or says so."""

COHORTS = [np.array([0, 2, 5]), np.array([1, 2, 3]), np.array([3, 4, 5]), np.array([0, 1, 4])]


def peer(script, name=RAY):
    return Peer(name=name, command=[sys.executable, "-c", SLEEPER + script])


@pytest.fixture(scope="module")
def measured():
    """One peer answers, one fails."""
    peers = [peer(TRAINS), peer("sys.exit('no such luck')", name=f"{PFL}, 1 process")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.bench_round.installed", lambda *_: (list(peers), ["a note"]))
        return bench_round(rounds=2, repeats=2, workers=0, workload=TINY)


@pytest.fixture
def candidates(tmp_path):
    """Of as many rounds and workers as asked."""
    return lambda rounds, workers: Candidates(TINY, rounds, workers, tmp_path / "workload.npz")


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

    def test_peers_read_the_same_devices_and_settings(self, tmp_path):
        TINY.save(tmp_path / "workload.npz", COHORTS)
        task, people = Task.load(tmp_path / "workload.npz"), TINY.population()
        for device, held in enumerate(task.devices):
            own = people.held(device, 0)
            assert np.array_equal(held.token_ids.ravel(), own.token_ids.ravel())
            assert np.array_equal(held.slots.ravel(), own.slots)
            assert np.array_equal(held.intents, own.intents)
        assert task.cohorts == [cohort.tolist() for cohort in COHORTS]
        assert (task.batch_size, task.learning_rate) == (16, 0.1)
        model = TINY.model(people)
        # A torch LSTM has a second bias in each direction.
        second = model.lstm_bias.numel()
        ours = sum(p.numel() for p in model.parameters())
        assert sum(p.numel() for p in task.module().parameters()) == ours + second


class TestCandidates:
    @pytest.mark.parametrize("name", [FEDAVG, SELECTIVE])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_bare_loop_ends_in_the_model_of_the_simulation(self, candidates, name, workers):
        tiny = candidates(3, workers)
        run = tiny.warm[name]
        laps = []
        by_hand = tiny.bare(cohorts_of(run), lambda: laps.append(1))
        assert len(laps) == 3
        start = dict(tiny.model.named_parameters())
        for key, trained in run.model.items():
            torch.testing.assert_close(by_hand[key], trained, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(trained, start[key], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", [FEDAVG, SELECTIVE])
    def test_loops_train_as_many_examples(self, candidates, name):
        tiny = candidates(2, 0)
        activity = tiny.people.activity()
        trained = [int(activity[c].sum()) for c in cohorts_of(tiny.warm[name])]
        for line in (name, *LOOPS[name]):
            assert tiny.examples(line) == trained

    def test_peers_are_told_to_train_the_cohorts_of_fedavg(self, candidates):
        tiny = candidates(3, 0)
        drawn = [cohort.tolist() for cohort in cohorts_of(tiny.warm[FEDAVG])]
        assert tiny.task.cohorts == drawn
        assert len({tuple(cohort) for cohort in drawn}) > 1

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_plain_loop_averages_what_each_device_trained(self, candidates, workers):
        task, cohorts = candidates(2, 0).task, [np.array([0, 2]), np.array([1])]
        start = task.initial()
        laps = []
        averaged = plain_loop(task, cohorts, workers, lambda: laps.append(1))
        for round, cohort in enumerate(cohorts, start=1):
            sizes = [len(task.devices[device].intents) for device in cohort]
            trained = []
            for device in cohort.tolist():
                module = task.module()
                module.load_state_dict(start)
                task.train(module, device, torch_generator(0, "peer/batches", round, device))
                trained.append(module.state_dict())
            start = {
                name: sum(n * each[name] for n, each in zip(sizes, trained, strict=True))
                / sum(sizes)
                for name in start
            }
        assert len(laps) == 2
        for name, p in averaged.items():
            torch.testing.assert_close(p, start[name])

    def test_a_recorded_round_holds_its_checkpoint(self, candidates, monkeypatch):
        saved = []
        monkeypatch.setattr(Checkpoints, "_save", lambda self, round, packed: saved.append(round))
        tiny = candidates(3, 0)
        at_lap = []
        tiny.candidates[RECORDED](lambda: at_lap.append(list(saved)))
        assert at_lap == [[], [1], [1, 2]]
        assert saved == [1, 2, 3]


class TestPeer:
    def test_its_warm_up_is_dropped(self, tmp_path):
        tens = [10, 10, 10]
        assert peer(SAYS).run(tmp_path / "any", 3, tens) == [3.0, 4.0, 5.0]

    def test_one_that_did_other_work_is_not_compared(self, tmp_path):
        with pytest.raises(PeerError, match=r"^trained \[10, 10\] examples instead of \[10, 12\]$"):
            peer(SAYS).run(tmp_path / "any", 2, [10, 12])

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("sys.exit('no such luck')", "ended with code 1: no such luck"),
            ("print('{}')", "ended with code 0: {}"),
            ("sys.exit(3)", "ended with code 3: nothing was said"),
        ],
    )
    def test_one_without_figures_says_why(self, tmp_path, script, said):
        with pytest.raises(PeerError, match=f"^{said}$"):
            peer(script).run(tmp_path / "any", 1, [10])

    def test_one_that_hangs_is_ended_with_all_it_started(self, tmp_path, monkeypatch):
        monkeypatch.setattr("experiments.bench_peers.MOST_SECONDS", 3)
        file = tmp_path / "child"
        script = f"""
import pathlib, subprocess, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
pathlib.Path({str(file)!r}).write_text(str(child.pid))
time.sleep(600)
"""
        with pytest.raises(PeerError, match="was not done after 3 seconds"):
            peer(script).run(tmp_path / "any", 1, [10])
        child = Path("/proc", file.read_text(), "stat")
        for _ in range(100):
            # A killed process takes a moment to end, and nobody may have waited for it yet.
            try:
                if child.read_text().split()[2] == "Z":
                    return
            except OSError:
                return
            time.sleep(0.1)
        pytest.fail("what the peer had started runs on")


class TestReport:
    def test_every_candidate_has_every_measurement(self, measured):
        said = json.loads(measured.json())
        assert [m["name"] for m in said["measurements"]] == [
            "plain torch loop, cohorts of FedAvg",
            "LocalGrid, FedAvg",
            "bare loop, cohorts of FedAvg",
            "plain torch loop, cohorts of Selective",
            "LocalGrid, Selective(FedAvg)",
            "bare loop, cohorts of Selective",
            "LocalGrid, Selective(FedAvg), probes every round",
            "LocalGrid, Selective(FedAvg), record and checkpoint every round",
            "LocalGrid, FedAvg, beside Flower on Ray, run_simulation",
            "Flower on Ray, run_simulation",
        ]
        for m in said["measurements"]:
            assert np.shape(m["seconds"]) == np.shape(m["examples"]) == (2, 2)
            assert m["median"] == pytest.approx(np.median(m["seconds"], axis=0).mean())
        assert said["machine"]["cores"] >= 1
        assert said["settings"]["workers"] == 0

    def test_ratios_are_of_rounds_run_in_turns(self, measured):
        lines = {m.name: m for m in measured.measurements}
        for name, base in AGAINST.items():
            assert lines[name].against == base
            pairs = np.array(lines[name].seconds) / np.array(lines[base].seconds)
            assert lines[name].ratio == pytest.approx(np.median(pairs))

    def test_each_simulation_is_held_to_both_loops(self, measured):
        lines = {m.name: m for m in measured.measurements}
        budgets = {b.name: b for b in measured.budgets}
        for name, loops in LOOPS.items():
            for loop in loops:
                pairs = np.array(lines[name].seconds) / np.array(lines[loop].seconds)
                assert budgets[f"{name} / {loop}"].value == pytest.approx(np.median(pairs))
                assert budgets[f"{name} / {loop}"].budget == 1.10

    def test_peers_train_what_fedavg_trains_and_are_compared_round_by_round(self, measured):
        lines = {m.name: m for m in measured.measurements}
        ours, rays = lines[f"{FEDAVG}, beside {RAY}"], lines[RAY]
        assert rays.examples == ours.examples == lines[FEDAVG].examples
        # The peer says that its two timed rounds take 3 and 4 seconds.
        pairs = np.array(ours.seconds) / [[3, 4], [3, 4]]
        budget = next(b for b in measured.budgets if RAY in b.name)
        assert budget.value == pytest.approx(np.median(pairs))
        assert budget.budget == pytest.approx(1 / 4.5)
        assert rays.ratio == pytest.approx(np.median(1 / pairs))
        assert rays.against == ours.name

    def test_a_peer_that_fails_is_said_and_not_judged(self, measured):
        budget = json.loads(measured.json())["budgets"][-1]
        assert PFL in budget["name"]
        assert budget["value"] is budget["met"] is None
        assert measured.notes == [
            "a note",
            "pfl-research, 1 process failed: it ended with code 1: no such luck",
        ]
        assert "no such luck" in measured.markdown()
        assert f"{FEDAVG} / {PFL}: not measured here; its budget is 1\n" in measured.markdown()

    def test_budgets_say_where_their_value_lies(self, measured):
        judged = [b for b in measured.budgets if b.value is not None]
        assert len(judged) == 5
        for budget in judged:
            low, high = budget.interval
            assert low <= budget.value <= high
            assert f"{budget.value:.3f} ({low:.3f} to {high:.3f})" in measured.markdown()

    def test_an_interval_holds_the_ratio_about_as_often_as_it_says(self):
        # Rounds of a repeat have in common what the machine did meanwhile.
        draw, held = stream(0, "test interval"), 0
        for _ in range(400):
            repeats = draw.normal(0.1, 0.1, (5, 1))
            own = np.exp(repeats + draw.normal(0.0, 0.05, (5, 8)))
            line = Measurement(name="a", seconds=own.tolist())
            base = Measurement(name="b", seconds=np.ones((5, 8)).tolist())
            low, high = interval_of_rounds(line, base)
            held += low <= np.exp(0.1) <= high
        # 95 % of 400 are 380; fewer than 363 or more than 394 are seen once in 1,000 times or less.
        assert 363 <= held <= 394

    def test_one_repeat_has_no_interval(self):
        line = Measurement(name="a", seconds=[[1.0, 2.0]])
        assert interval_of_rounds(line, line) is None

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
        assert main(["bench", "round", *words, "--pfl-python", "/a/python"]) == 0
        python = Path("/a/python")
        assert asked == {"rounds": 3, "repeats": 2, "workers": 1, "pfl_python": python}
        assert measured.markdown() in capsys.readouterr().out
        assert json.loads(file.read_text())["name"] == "round"

    def test_a_file_that_cannot_be_written_is_refused_before_anything_is_timed(
        self, monkeypatch, capsys, tmp_path
    ):
        monkeypatch.setattr("experiments.bench_round.bench_round", lambda **_: pytest.fail("timed"))
        for path, why in (
            (tmp_path / "no" / "round.json", "No such file or directory"),
            (tmp_path, "Is a directory"),
        ):
            assert main(["bench", "round", "--json", str(path)]) == 2
            assert capsys.readouterr().err == (
                f"fedsim: --json {path} cannot be written ({why}); name a file in a folder that "
                "exists and that you may write to\n"
            )

    def test_a_benchmark_that_fails_leaves_the_file_as_it_was(self, monkeypatch, tmp_path):
        def stopped(**_):
            raise KeyboardInterrupt

        monkeypatch.setattr("experiments.bench_round.bench_round", stopped)
        old, new = tmp_path / "old.json", tmp_path / "new.json"
        old.write_text("{}")
        for path in (old, new):
            assert main(["bench", "round", "--json", str(path)]) == 130
        assert old.read_text() == "{}"
        assert not new.exists()

    def test_an_interpreter_that_cannot_be_run_is_refused(self, capsys):
        assert main(["bench", "round", "--pfl-python", "/no/such/python"]) == 2
        assert capsys.readouterr().err == (
            "fedsim: pfl_python is /no/such/python, which cannot be run; "
            "name an interpreter with pfl[pytorch]\n"
        )

    @pytest.mark.parametrize("word", ["rounds", "repeats"])
    def test_nothing_to_time_is_refused(self, word, capsys):
        assert main(["bench", "round", f"--{word}", "0"]) == 2
        assert capsys.readouterr().err == f"fedsim: {word} is 0; choose 1 or more\n"


@pytest.mark.slow
def test_flower_on_ray_trains_the_cohorts_it_is_given_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("ray")
    TINY.save(tmp_path / "workload.npz", COHORTS)
    flowers, _ = installed(2, None, tmp_path)
    assert [flower.name for flower in flowers] == [RAY, RAY_APP, RAY_TUNED]
    sizes = TINY.population().activity()
    expected = [int(sizes[cohort].sum()) for cohort in COHORTS[2:]]
    for flower in flowers:
        seconds = flower.run(tmp_path / "workload.npz", 2, expected)
        assert len(seconds) == 2
        assert min(seconds) > 0
    workload = str(tmp_path / "workload.npz").encode()
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if workload in p.read_bytes()]
    assert left == []
