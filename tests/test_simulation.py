"""The round loop: the same run is the same model, and nothing a device does can break a round."""

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

from clients import NLUClient
from fedsim import ConfigError, Continual, Population, Simulation, Static
from fedsim.engine.local import LocalGrid
from fedsim.engine.replies import NOTHING_HELD_OUT
from fedsim.models import BiLSTMTagger
from fedsim.privacy.release import DeviceLevel
from fedsim.record import model_sha256
from strategies import ActivitySelection, PrivateAggregation, Selective, UniformSelection

PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=8)
EVERYONE = UniformSelection(cohort=12)


def simulation(**changes) -> Simulation:
    """A small simulation, with the given fields changed."""
    fields = {
        "population": PEOPLE,
        "model": MODEL,
        "client": NLUClient(),
        "strategy": Selective(FedAvg(), ActivitySelection(cohort=4)),
        "schedule": Static(rounds=2),
        "workers": 0,
    }
    return Simulation(**{**fields, **changes})


def sha(**changes) -> str:
    return simulation(**changes).run().summary["model_sha256"]


def misbehaving(devices, how) -> ClientApp:
    """A user's app whose devices add 1, but for some, which do what `how(message)` says."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id in devices:
            return how(message)
        return replied(message, 1.0)

    return app


def replied(message: Message, change: float, **metrics) -> Message:
    arrays = {
        name: Array(array.numpy() + np.float32(change))
        for name, array in message.content["arrays"].items()
    }
    figures = {"num-examples": 1, "train_loss": 1.0, **metrics}
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(figures)})
    return Message(content, reply_to=message)


def crash(message: Message) -> Message:
    raise RuntimeError("battery empty\nsecond line")


def send_nan(message: Message) -> Message:
    return replied(message, float("nan"))


class TestDeterminism:
    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_the_number_of_workers_changes_nothing(self, workers):
        assert sha(workers=workers) == sha(workers=0)

    def test_running_twice_gives_the_same_model(self):
        one = simulation(strategy=Selective(FedAdam(), ActivitySelection(cohort=4)))
        first, second = one.run(), one.run()
        assert first.summary["model_sha256"] == second.summary["model_sha256"]
        assert first.cohorts["drawn"].tolist() == second.cohorts["drawn"].tolist()

    def test_a_fresh_process_gives_the_same_model(self):
        here = Path(__file__).parent
        script = (
            f"import sys; sys.path.append({str(here)!r})\n"
            "import test_simulation as t\n"
            "print(t.sha())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=here.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == sha()

    def test_another_seed_gives_another_model(self):
        assert sha(seed=1) != sha(seed=0)

    def test_measuring_more_often_and_more_probes_do_not_change_the_run(self):
        def curious(finished):
            np.random.default_rng().random(7)
            return {"curious/loss": float(finished.test.losses.sum())}

        assert sha(probes=[curious], evaluate_every=1) == sha(evaluate_every=2)

    def test_the_starting_model_is_left_as_it_was(self):
        before = model_sha256(dict(MODEL.named_parameters()))
        simulation().run()
        assert model_sha256(dict(MODEL.named_parameters())) == before


class TestRounds:
    def test_a_round_without_devices_keeps_the_model_and_has_no_loss(self):
        strategy = Selective(FedAvg(), UniformSelection(cohort=1e-9))
        finished = simulation(strategy=strategy).run()
        sizes = [line["cohort_size"] for line in finished.rounds]
        assert sizes == [0, 0]
        assert all(line["train_loss"] is None for line in finished.rounds)
        assert finished.summary["model_sha256"] == finished.start["model_sha256"]
        assert finished.rounds[-1]["intent_accuracy"] is not None

    def test_a_population_of_one_trains(self):
        one = Population.load("home", devices=1)
        finished = simulation(
            population=one,
            model=BiLSTMTagger.sized_for(one, embedding=4, hidden=4),
            strategy=Selective(FedAvg(), UniformSelection(cohort=1)),
        ).run()
        assert [line["cohort_size"] for line in finished.rounds] == [1, 1]
        assert finished.rounds[-1]["train_loss"] < finished.rounds[0]["train_loss"]

    def test_a_device_without_examples_in_a_period_stays_at_home_then(self):
        cut = PEOPLE.cut(3)
        device = int(np.argmax((cut.counts > 0).all(axis=1)))
        owner = np.repeat(np.arange(12), PEOPLE.counts.sum(axis=1))
        own = np.concatenate([cut.train(d).period for d in range(12)])
        people = PEOPLE.without((owner == device) & (own == 1))
        counts = people.cut(3).counts
        finished = simulation(
            population=people,
            strategy=Selective(FedAvg(), EVERYONE),
            schedule=Continual(periods=3, rounds=3),
        ).run()
        sizes = [line["cohort_size"] for line in finished.rounds]
        assert counts[device, 1] == 0
        assert sizes == (counts > 0).sum(axis=0).tolist()

    def test_shortages_stand_in_the_record(self):
        owner = np.repeat(np.arange(12), PEOPLE.counts.sum(axis=1))
        people = PEOPLE.without(owner >= 3)
        finished = simulation(population=people).run()
        assert (
            "in period 1, 3 devices hold data and all of them come: "
            "3 devices are expected, not the cohort of 4"
        ) in finished.start["assumptions"]
        assert [line["cohort_size"] for line in finished.rounds] == [3, 3]

    def test_a_cap_that_keeps_cohorts_small_stands_in_the_record(self):
        policy = ActivitySelection(cohort=12, cap=0.25)
        finished = simulation(strategy=Selective(FedAvg(), policy)).run()
        assert (
            "in period 1, 12 devices hold data and no rate may exceed 0.25: "
            "3 devices are expected, not the cohort of 12"
        ) in finished.start["assumptions"]

    def test_people_who_appear_in_one_period_alone_stand_in_the_record(self):
        owner = np.repeat(np.arange(12), PEOPLE.counts.sum(axis=1))
        own = np.concatenate([PEOPLE.cut(3).train(d).period for d in range(12)])
        people = PEOPLE.without((own > 0) | (owner == 11))
        finished = simulation(
            population=people,
            strategy=Selective(FedAvg(), UniformSelection(cohort=2)),
            schedule=Continual(periods=3, rounds=3),
        ).run()
        share = (people.cut(3).counts > 0).sum(axis=1)
        assert (share == 1).mean() > 0.5
        assert any("in a single period" in text for text in finished.start["assumptions"])

    def test_periods_are_counted_from_one_and_only_their_examples_are_processed(self):
        finished = simulation(
            strategy=Selective(FedAvg(), EVERYONE), schedule=Continual(periods=2, rounds=3)
        ).run()
        held = PEOPLE.cut(2).counts.sum(axis=0).tolist()
        assert [line["period"] for line in finished.rounds] == [1, 1, 2]
        assert [line["cohort_examples"] for line in finished.rounds] == [held[0], held[0], held[1]]

    def test_rounds_train(self):
        finished = simulation(schedule=Static(rounds=6), evaluate_every=6).run()
        losses = [line["train_loss"] for line in finished.rounds]
        assert losses[-1] < 0.8 * losses[0]


class TestFailures:
    @pytest.mark.parametrize(
        ("how", "stage", "sentence"),
        [
            (crash, "train", "battery empty"),
            (send_nan, "reply", "not finite"),
            (lambda message: replied(message, 1.0, train_loss=float("inf")), "reply", "train_loss"),
            (lambda message: Message(RecordDict(), reply_to=message), "reply", "array records"),
            (lambda message: None, "train", "no reply"),
            (lambda m: Message(RecordDict(), 3, "train"), "train", "no reply to its message"),
        ],
        ids=["crash", "nan", "infinite loss", "empty", "nothing", "astray"],
    )
    def test_a_failing_device_is_named_and_the_round_goes_on_without_it(
        self, tmp_path, how, stage, sentence
    ):
        strategy = Selective(FedAvg(), EVERYONE)
        finished = simulation(strategy=strategy, client=misbehaving({5}, how)).run(tmp_path / "r")
        lines = (tmp_path / "r" / "failures.jsonl").read_text().splitlines()
        named = [json.loads(line) for line in lines]
        assert [(f["round"], f["device"], f["stage"]) for f in named] == [
            (1, 5, stage),
            (2, 5, stage),
        ]
        assert all(sentence in f["error"] and "\n" not in f["error"] for f in named)
        assert [line["failures"] for line in finished.rounds] == [1, 1]
        assert 5 not in finished.cohorts["arrived"]
        assert finished.cohorts["failed"].tolist() == [5, 5]
        for name, start in MODEL.named_parameters():
            np.testing.assert_allclose(finished.model[name], start.detach() + 2, rtol=1e-5)

    def test_a_device_that_sends_nan_is_as_good_as_absent(self):
        honest = NLUClient().bind(PEOPLE, MODEL, seed=0)
        usual = NLUClient().app(honest)

        def but_for_five(message, context):
            return send_nan(message) if context.node_id == 5 else usual(message, context)

        app = ClientApp()
        app.train()(but_for_five)
        strategy = Selective(FedAvg(), EVERYONE)
        poisoned = simulation(strategy=strategy, client=app).run()
        owner = np.repeat(np.arange(12), PEOPLE.counts.sum(axis=1))
        absent = simulation(strategy=strategy, population=PEOPLE.without(owner == 5)).run()
        assert poisoned.summary["model_sha256"] == absent.summary["model_sha256"]
        assert poisoned.rounds[-1]["train_loss"] == absent.rounds[-1]["train_loss"]

    def test_when_every_device_fails_the_model_stays_as_it_is(self):
        finished = simulation(client=misbehaving(range(12), crash)).run()
        assert [line["failures"] for line in finished.rounds] == [
            line["cohort_size"] for line in finished.rounds
        ]
        assert finished.summary["model_sha256"] == finished.start["model_sha256"]
        assert finished.summary.get("train_loss") is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            (
                {"strategy": Selective(FedAvg(), UniformSelection(cohort=13))},
                "cohort is 13, but the population has 12 devices; choose 12 or fewer",
            ),
            ({"evaluate_every": 0}, "evaluate_every is 0; choose 1 or more"),
            ({"workers": -1}, r"workers is -1; choose 0 \(inline\) or more"),
        ],
    )
    def test_what_does_not_fit_is_refused_and_leaves_nothing(self, tmp_path, changes, sentence):
        with pytest.raises(ConfigError, match=sentence):
            simulation(**changes).run(tmp_path / "deep" / "down")
        assert list(tmp_path.iterdir()) == []

    def test_a_strategy_that_cannot_be_copied_is_refused(self):
        class Locked(FedAvg):
            def __deepcopy__(self, memo):
                raise TypeError("cannot pickle '_thread.lock' object")

        with pytest.raises(ConfigError, match="Locked cannot be copied for the run"):
            simulation(strategy=Locked()).run()

    def test_a_figure_without_a_place_in_the_record_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="name it 'probe/curious'"):
            simulation(probes=[lambda finished: {"curious": 1.0}]).run(tmp_path / "r")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("rate", "sentence"),
    [(1e39, "has values that are not finite"), (1e25, "has exploded: its norm is")],
    ids=["not finite", "exploded"],
)
def test_an_aggregate_that_devices_could_not_reply_with_leaves_the_model(tmp_path, rate, sentence):
    strategy = Selective(FedAvgM(server_learning_rate=rate), EVERYONE)
    run = simulation(strategy=strategy).run(tmp_path / "run")
    named = [json.loads(x) for x in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert [(f["round"], f["device"], f["stage"]) for f in named] == [
        (1, -1, "aggregate"),
        (2, -1, "aggregate"),
    ]
    assert all(f["error"].endswith("; the model stays as it was") for f in named)
    assert sentence in named[0]["error"]
    assert [line["failures"] for line in run.rounds] == [1, 1]
    assert run.cohorts["arrived"].tolist() == 2 * list(range(12))
    assert run.cohorts["failed"].size == 0
    assert run.summary["model_sha256"] == run.start["model_sha256"]


def test_an_aggregate_of_another_shape_leaves_the_model_and_is_a_failure():
    class Flat(FedAvg):
        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            return ArrayRecord({n: Array(a.numpy().ravel()) for n, a in arrays.items()}), metrics

    run = simulation(strategy=Selective(Flat(), EVERYONE)).run()
    assert [line["figures"]["failures/aggregate"] for line in run.rounds] == [1, 1]
    assert run.summary["model_sha256"] == run.start["model_sha256"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("kind", [FedAvgM, FedAdam, FedAdagrad, FedYogi])
def test_an_aggregate_that_is_refused_is_as_good_as_none(kind, private):
    """The oracle: the same optimizer, which has nothing to say in that round."""
    rate = "server_learning_rate" if kind is FedAvgM else "eta"

    class Silent(kind):
        def aggregate_train(self, server_round, replies):
            if server_round == 2:
                return None, None
            return super().aggregate_train(server_round, replies)

    class Bursting(kind):
        def aggregate_train(self, server_round, replies):
            if server_round == 2:
                setattr(self, rate, 1e25)
            return super().aggregate_train(server_round, replies)

    def run(made):
        own = made(**{"server_momentum": 0.5} if kind is FedAvgM else {}, **{rate: 0.05})
        if private:
            own = PrivateAggregation(own, DeviceLevel(noise_multiplier=0.1, delta=1e-3))
        strategy = Selective(own, EVERYONE)
        app = misbehaving((), crash)
        return simulation(strategy=strategy, client=app, schedule=Static(rounds=4)).run()

    burst, silent = run(Bursting), run(Silent)
    refused = [line["figures"].get("failures/aggregate", 0) for line in burst.rounds]
    assert refused == [0, 1, 0, 0]
    assert burst.summary["model_sha256"] == silent.summary["model_sha256"]
    claims = [[line["epsilon_max"] for line in each.rounds] for each in (burst, silent)]
    assert claims[0] == claims[1], "what was drawn is charged, whatever becomes of it"


@pytest.mark.parametrize(
    "strategy", [FedAvg(fraction_evaluate=0.0), Selective(FedAvg(), EVERYONE)], ids=["bare", "plan"]
)
def test_devices_with_the_most_work_start_first_so_that_no_worker_waits_for_them(strategy):
    app, started = ClientApp(), []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        started.append(int(PEOPLE.activity()[context.node_id]))
        return replied(message, 1.0)

    simulation(client=app, strategy=strategy, schedule=Static(rounds=1)).run()
    assert started == sorted(PEOPLE.activity().tolist(), reverse=True)


def test_devices_that_use_the_global_generator_do_not_move_the_strategy_s_draws():
    def drawing(times):
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            for _ in range(times):
                random.random()
            return replied(message, 1.0)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            metrics = MetricRecord({"num-examples": 1, "node": context.node_id})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

        return app

    def asked(times):
        bare = FedAvg(fraction_train=0.5, fraction_evaluate=0.25)
        run = simulation(strategy=bare, client=drawing(times)).run()
        return [line["figures"]["evaluate/node"] for line in run.rounds]

    assert asked(0) == asked(7)


def test_a_policy_without_a_cap_whose_rates_fall_short_is_said_so():
    @dataclass(frozen=True)
    class Half:
        cohort: float = 12
        label = "half"
        natural_weighting = "equal"

        def rates(self, activity):
            return np.full(len(activity), 0.5)

    run = simulation(strategy=Selective(FedAvg(), Half())).run()
    assert (
        "in period 1, 12 devices hold data and their rates reach no further: "
        "6 devices are expected, not the cohort of 12"
    ) in run.start["assumptions"]


@pytest.mark.parametrize("kind", [SystemExit, KeyError], ids=["exit", "error"])
def test_whatever_an_app_raises_on_a_worker_is_a_failure_of_its_device(kind):
    def stop(message):
        raise kind("enough")

    app = misbehaving({1}, stop)
    run = simulation(client=app, strategy=Selective(FedAvg(), EVERYONE), workers=1).run()
    assert [line["failures"] for line in run.rounds] == [1, 1]
    assert [line["figures"]["failures/train"] for line in run.rounds] == [1, 1]
    assert not [name for name in run.summary if name.startswith("failures")]


class TestEvaluationOnDevices:
    """Of a bare strategy; `Selective` asks nobody."""

    def run(self, tmp_path, how):
        app = misbehaving(set(), None)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            if context.node_id in (3, 5):
                return how(message)
            metrics = MetricRecord({"num-examples": 1, "node": context.node_id})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

        run = simulation(client=app, strategy=FedAvg(), schedule=Static(rounds=1))
        run = run.run(tmp_path / "run")
        file = tmp_path / "run" / "failures.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return run, [json.loads(line) for line in lines]

    def test_devices_that_fail_are_counted_and_named_apart_from_training(self, tmp_path):
        run, named = self.run(tmp_path, crash)
        assert [(f["device"], f["stage"]) for f in named] == [(3, "evaluate"), (5, "evaluate")]
        assert named[0]["error"] == "RuntimeError: battery empty"
        (line,) = run.rounds
        assert line["figures"]["failures/evaluate"] == line["failures"] == 2
        assert line["figures"]["evaluate/node"] == pytest.approx((66 - 3 - 5) / 10)
        assert run.cohorts["failed"].size == 0
        assert run.cohorts["arrived"].tolist() == list(range(12))

    def test_a_reply_that_cannot_be_used_is_a_failure_too(self, tmp_path):
        _, named = self.run(tmp_path, lambda message: replied(message, 0.0, node=float("nan")))
        assert [f["error"] for f in named] == 2 * ["metric node is nan"]

    def test_a_device_with_nothing_held_out_is_no_failure(self, tmp_path):
        nothing = Error(code=NOTHING_HELD_OUT, reason="nothing")
        run, named = self.run(tmp_path, lambda message: Message(nothing, reply_to=message))
        assert named == []
        assert run.rounds[0]["figures"]["evaluate/node"] == pytest.approx((66 - 3 - 5) / 10)

    def test_the_project_s_own_devices_never_fail_there(self):
        tested = set(PEOPLE.test.device.tolist())
        run = simulation(strategy=FedAvg()).run()
        assert not set(range(12)) <= tested
        assert [line["failures"] for line in run.rounds] == [0, 0]
        assert run.rounds[-1]["figures"]["evaluate/intent_accuracy"] > 0

    def test_nothing_is_sent_where_nobody_is_asked(self, monkeypatch):
        sent = []
        usual = LocalGrid.send_and_receive

        def noted(grid, messages, **options):
            sent.append(len(messages))
            return usual(grid, messages, **options)

        monkeypatch.setattr(LocalGrid, "send_and_receive", noted)
        simulation(strategy=Selective(FedAvg(), EVERYONE)).run()
        assert sent == [12, 12]


@pytest.mark.parametrize("faults", ["dropout=.3", {"dropout": 0.3}, 0.3], ids=str)
def test_faults_of_another_kind_are_refused_with_the_remedy(faults):
    with pytest.raises(ConfigError, match=r"^faults is .*; expected Faults\(.*Faults.parse\("):
        simulation(faults=faults)
