"""A run that was interrupted goes on to the result it would have had, or says why it cannot."""

import json
import logging
import shutil

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx
from reading import HighestLosses, NoiseByMovement, UniformUntilItSlows
from same_run import assert_same_run

from clients import NLUClient
from fedsim import ConfigError, Continual, Faults, Population, Simulation, Static
from fedsim.environment import environment
from fedsim.folder import Folder, begin
from fedsim.models import BiLSTMTagger
from fedsim.privacy.release import AdaptiveClipping, DeviceLevel
from fedsim.record import Writer
from fedsim.record.checkpoint import newest
from fedsim.round import Round
from strategies import ActivitySelection, PrivateAggregation, Selective, UniformSelection

PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
STRATEGIES = {
    "fedavg": FedAvg(),
    "fedavgm": FedAvgM(server_learning_rate=0.9, server_momentum=0.9),
    "fedadam": FedAdam(eta=0.01, beta_1=0.9, beta_2=0.99),
    "fedprox": FedProx(proximal_mu=0.1),
    "fedmedian": FedMedian(),
    "private": PrivateAggregation(
        FedAvgM(server_momentum=0.9), DeviceLevel(noise_multiplier=1.0, adaptive=AdaptiveClipping())
    ),
}
READING = {
    "releases": UniformUntilItSlows(cohort=4, slow=0.95),
    "both": UniformUntilItSlows(cohort=4, slow=0.85),
    "losses": HighestLosses(cohort=4),
}


def simulation(**changes) -> Simulation:
    """Five rounds over two periods, whose rates change and whose probe Forgetting remembers."""
    fields = {
        "population": PEOPLE,
        "model": MODEL,
        "client": NLUClient(local_steps=1),
        "strategy": Selective(FedAdam(eta=0.01), ActivitySelection(cohort=4)),
        "schedule": Continual(periods=2, rounds=5),
        "workers": 0,
    }
    return Simulation(**{**fields, **changes})


def interrupt(monkeypatch, out, during=4, error=KeyboardInterrupt, **changes) -> None:
    """Run until a round is written down, but not yet in a checkpoint."""
    whole = Writer.round

    def stopping(writer, finished, *rest):
        line = whole(writer, finished, *rest)
        if finished.round == during:
            raise error
        return line

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "round", stopping)
        with pytest.raises(error):
            simulation(**changes).run(out)


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The folder of a run that was interrupted in round 4 of 5."""
    interrupt(monkeypatch, tmp_path / "run")
    return tmp_path / "run"


def flaky(devices) -> ClientApp:
    """An app whose devices count how often they trained, and some of which always fail."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id in devices:
            raise RuntimeError("battery empty")
        state = context.state
        times = state["seen"]["times"] + 1 if "seen" in state else 1
        state["seen"] = MetricRecord({"times": times})
        state["notes"] = ConfigRecord({"word": "é", "raw": b"\x00\x01", "flags": [True]})
        state["head"] = ArrayRecord({"w": Array(np.full(2, times, np.float32))})
        arrays = {
            name: Array(array.numpy() + np.float32(times) * state["head"]["w"].numpy()[0])
            for name, array in message.content["arrays"].items()
        }
        figures = MetricRecord({"num-examples": 1, "train_loss": 1.0 / times})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": figures})
        return Message(content, reply_to=message)

    return app


class Remembering:
    """A user's probe that adds up what it saw."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, finished):
        self.total += len(finished.cohort)
        return {"remembering/total": self.total}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


class TestToTheBit:
    @pytest.mark.parametrize("name", STRATEGIES)
    def test_every_strategy_goes_on_as_if_nothing_had_happened(self, tmp_path, monkeypatch, name):
        strategy = Selective(STRATEGIES[name], ActivitySelection(cohort=4))
        whole = simulation(strategy=strategy).run(tmp_path / "whole")
        interrupt(monkeypatch, tmp_path / "run", strategy=strategy)
        assert newest(Folder(tmp_path / "run"))[0] == 3
        resumed = simulation(strategy=strategy).run(tmp_path / "run", resume=True)
        assert_same_run(resumed, whole)

    @pytest.mark.parametrize("during", [1, 2, 3, 5])
    def test_whichever_round_it_was_interrupted_in(self, tmp_path, monkeypatch, during):
        interrupt(monkeypatch, tmp_path / "run", during=during)
        resumed = simulation().run(tmp_path / "run", resume=True)
        assert_same_run(resumed, simulation().run(tmp_path / "whole"))

    @pytest.mark.parametrize("policy", READING)
    def test_what_a_policy_and_the_noise_have_read_survives(self, tmp_path, monkeypatch, policy):
        def strategy():
            budget = None if policy == "losses" else 20.0
            level = DeviceLevel(clip_norm=0.5, noise_multiplier=1.0, device_budget=budget)
            noise = NoiseByMovement(sigma=1.0, slow=1.0) if policy == "both" else None
            return Selective(PrivateAggregation(FedAdam(eta=0.01), level, noise), READING[policy])

        whole = simulation(strategy=strategy()).run(tmp_path / "whole")
        assert len(whole.cohorts["rates"]) > 1
        sigmas = [line["figures"]["privacy/noise_multiplier"] for line in whole.rounds]
        assert (sigmas[-1] > sigmas[0]) == (policy == "both")
        interrupt(monkeypatch, tmp_path / "run", strategy=strategy())
        resumed = simulation(strategy=strategy()).run(tmp_path / "run", resume=True)
        assert_same_run(resumed, whole)

    def test_state_that_devices_keep_and_failures_survive(self, tmp_path, monkeypatch):
        changes = {"client": flaky({3, 4}), "strategy": FedAvg(fraction_evaluate=0.0)}
        whole = simulation(**changes).run(tmp_path / "whole")
        interrupt(monkeypatch, tmp_path / "run", **changes)
        assert whole.rounds[-1]["failures"] == 2
        assert whole.rounds[-1]["train_loss"] == pytest.approx(1 / 5)
        assert_same_run(simulation(**changes).run(tmp_path / "run", resume=True), whole)

    def test_simulated_faults_befall_the_same_devices(self, tmp_path, monkeypatch):
        faults = {"faults": Faults(dropout=0.3, nan=0.1, error=0.1, deadline=0.2)}
        whole = simulation(**faults).run(tmp_path / "whole")
        interrupt(monkeypatch, tmp_path / "run", **faults)
        assert whole.cohorts["failed"].size > 0
        assert_same_run(simulation(**faults).run(tmp_path / "run", resume=True), whole)

    def test_probes_of_the_user_s_own_go_on_with_what_they_remember(self, tmp_path, monkeypatch):
        whole = simulation(probes=[Remembering()]).run(tmp_path / "whole")
        interrupt(monkeypatch, tmp_path / "run", probes=[Remembering()])
        resumed = simulation(probes=[Remembering()]).run(tmp_path / "run", resume=True)
        assert_same_run(resumed, whole)
        assert resumed.rounds[-1]["figures"]["remembering/total"] == whole.cohorts["drawn"].size

    def test_the_number_of_workers_may_change(self, stopped, tmp_path):
        resumed = simulation(workers=2).run(stopped, resume=True)
        assert resumed.summary["model_sha256"] == simulation().run().summary["model_sha256"]

    def test_the_time_of_all_processes_is_added_up(self, stopped):
        saved = newest(Folder(stopped))[1]["seconds"]
        resumed = simulation().run(stopped, resume=True)
        assert resumed.summary["seconds"] > saved > 0


class TestCheckpoints:
    def test_one_every_few_rounds_and_one_at_an_interrupt(self, tmp_path, monkeypatch):
        rounds = []
        save = Folder.replace

        def noted(folder, name, write):
            rounds.append(name)
            save(folder, name, write)

        monkeypatch.setattr(Folder, "replace", noted)
        every = {"checkpoint_every": 2, "schedule": Static(rounds=6)}
        interrupt(monkeypatch, tmp_path / "run", during=6, **every)
        saved = [name.partition("/")[2] for name in rounds if "round-" in name]
        assert saved == [f"round-{k:06d}.npz" for k in (2, 4, 5)]
        resumed = simulation(**every).run(tmp_path / "run", resume=True)
        assert_same_run(resumed, simulation(schedule=Static(rounds=6)).run())

    def test_an_error_loses_no_round_either(self, tmp_path, monkeypatch):
        interrupt(monkeypatch, tmp_path / "run", error=RuntimeError, checkpoint_every=5)
        assert newest(Folder(tmp_path / "run"))[0] == 3

    def test_only_the_newest_is_kept_and_none_once_the_run_is_finished(self, stopped):
        names = sorted(path.name for path in (stopped / "checkpoint").iterdir())
        assert names == ["cohorts.jsonl", "rates-000001.npy", "round-000003.npz"]
        simulation().run(stopped, resume=True)
        assert not (stopped / "checkpoint").exists()

    def test_a_damaged_one_is_passed_over_for_the_one_before(self, tmp_path, monkeypatch):
        out = tmp_path / "run"
        interrupt(monkeypatch, out)
        newer = out / "checkpoint" / "round-000004.npz"
        newer.write_bytes((out / "checkpoint" / "round-000003.npz").read_bytes()[:-200])
        assert newest(Folder(out))[0] == 3
        assert_same_run(simulation().run(out, resume=True), simulation().run(tmp_path / "whole"))

    def test_a_flipped_bit_is_noticed(self, stopped):
        path = stopped / "checkpoint" / "round-000003.npz"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert newest(Folder(stopped)) == (0, None)

    def test_without_any_the_run_begins_again(self, stopped, tmp_path):
        shutil.rmtree(stopped / "checkpoint")
        resumed = simulation().run(stopped, resume=True)
        assert_same_run(resumed, simulation().run(tmp_path / "whole"))

    def test_half_a_line_and_lines_of_later_rounds_are_dropped(self, stopped, tmp_path):
        with (stopped / "rounds.jsonl").open("a") as file:
            file.write('{"round": 5, "per')
        with (stopped / "failures.jsonl").open("a") as file:
            file.write('{"round": 4, "device": 1, "stage": "train", "error": "x"}\n')
        resumed = simulation().run(stopped, resume=True)
        assert_same_run(resumed, simulation().run(tmp_path / "whole"))

    def test_a_record_that_lost_rounds_is_refused(self, stopped):
        lines = (stopped / "rounds.jsonl").read_text().splitlines(keepends=True)
        (stopped / "rounds.jsonl").write_text(lines[0])
        with pytest.raises(ConfigError, match="checkpoint of round 3, but a record of 1 rounds"):
            simulation().run(stopped, resume=True)

    def test_rates_cost_nothing_while_they_do_not_change(self, stopped):
        path = stopped / "checkpoint" / "round-000003.npz"
        with np.load(path) as archive:
            shapes = [archive[name].shape for name in archive.files]
        assert (12,) not in shapes
        assert np.load(stopped / "checkpoint" / "rates-000001.npy").shape == (12,)

    def test_a_full_disk_keeps_the_checkpoint_before(self, tmp_path, monkeypatch):
        save = Folder.replace

        def full(folder, name, write):
            if "round-000003" in name:
                raise ConfigError(f"{name} cannot be written: No space left on device")
            save(folder, name, write)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "replace", full)
            with pytest.raises(ConfigError, match="No space left on device"):
                simulation().run(tmp_path / "run")
        assert newest(Folder(tmp_path / "run"))[0] == 2
        resumed = simulation().run(tmp_path / "run", resume=True)
        assert_same_run(resumed, simulation().run(tmp_path / "whole"))


class TestWhereToGoOn:
    @pytest.mark.parametrize("made", [False, True])
    def test_a_missing_or_empty_folder_just_starts(self, tmp_path, made):
        if made:
            (tmp_path / "run").mkdir()
        assert len(simulation().run(tmp_path / "run", resume=True).rounds) == 5

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(ConfigError, match="is not empty"):
            simulation().run(tmp_path, resume=True)
        assert (tmp_path / "thesis.tex").read_text() == "mine"

    def test_without_resume_an_unfinished_run_is_refused_with_the_way_on(self, stopped):
        with pytest.raises(ConfigError, match=r"holds a run already.* or resume the run"):
            simulation().run(stopped)

    def test_a_finished_run_is_read_back_and_says_so(self, tmp_path, caplog):
        whole = simulation().run(tmp_path / "run")
        with caplog.at_level(logging.WARNING):
            again = simulation().run(tmp_path / "run", resume=True)
        assert again.summary == whole.summary
        assert "is finished; it is read back" in caplog.text

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"seed": 1}, r"seed \(0 there, 1 now\)"),
            ({"client": NLUClient(local_steps=2)}, r"client.local_steps \(1 there, 2 now\)"),
            ({"schedule": Continual(periods=2, rounds=6)}, r"rounds \(5 there, 6 now\)"),
            ({"faults": Faults(nan=0.1)}, r"simulation.faults"),
            ({"evaluate_every": 2}, r"evaluate_every \(1 there, 2 now\)"),
            ({"probes": [Remembering()]}, r"simulation.probes \(\[\] there"),
            ({"population": Population.load("home", devices=13)}, "devices|fingerprint"),
            ({"model": BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4, seed=9)}, "sha256"),
        ],
        ids=lambda value: "" if isinstance(value, dict) else str(value)[:12],
    )
    def test_another_run_is_refused_with_what_differs(self, stopped, changes, field):
        before = sorted(path.name for path in stopped.rglob("*"))
        with pytest.raises(ConfigError, match=rf"is of another run: .*({field})"):
            simulation(**changes).run(stopped, resume=True)
        assert sorted(path.name for path in stopped.rglob("*")) == before

    def test_another_version_is_refused_with_both(self, stopped):
        config = json.loads((stopped / "config.json").read_text())
        config["environment"]["torch"] = "1.0"
        (stopped / "config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=r'environment.torch \("1.0" there, .* now\)'):
            simulation().run(stopped, resume=True)

    def test_a_folder_that_other_options_claimed_is_refused(self, tmp_path):
        begin(tmp_path / "run", {"recipe": {"seed": 3}, "environment": environment()})
        with pytest.raises(ConfigError, match=r"options.seed \(3 there, absent now\)"):
            simulation().run(tmp_path / "run", resume=True)

    def test_a_folder_that_another_process_works_in_is_refused(self, stopped):
        with (
            Folder(stopped).held(),
            pytest.raises(ConfigError, match="another process is running the simulation"),
        ):
            simulation().run(stopped, resume=True)

    def test_an_interrupted_script_is_told_the_way_on(self, tmp_path, monkeypatch):
        with pytest.raises(KeyboardInterrupt) as stop, monkeypatch.context() as patch:
            patch.setattr(Round, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            simulation().run(tmp_path / "run")
        out = str(tmp_path / "run")
        assert stop.value.__notes__ == [f".run(out={out!r}, resume=True) goes on from there"]


def test_checkpoints_every_no_rounds_are_refused():
    with pytest.raises(ConfigError, match="checkpoint_every is 0; choose 1 or more"):
        simulation(strategy=Selective(FedAvg(), UniformSelection(cohort=3)), checkpoint_every=0)
