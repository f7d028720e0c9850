"""A device that fails is named by what befell it; the others' round goes on without it."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
)

from clients import NLUClient
from fedsim import Faults, Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from strategies import Selective, UniformSelection

PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
EVERYONE = UniformSelection(cohort=12)


def simulation(**changes) -> Simulation:
    fields = {
        "population": PEOPLE,
        "model": MODEL,
        "client": NLUClient(batch_size=64),
        "strategy": Selective(FedAvg(), EVERYONE),
        "schedule": Static(rounds=2),
        "workers": 0,
        "evaluate_every": 2,
    }
    return Simulation(**{**fields, **changes})


def noting(asked: list[int]) -> ClientApp:
    """A user's app whose devices note that they were asked and add 1 to the model."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        asked.append(context.node_id)
        arrays = {name: Array(a.numpy() + np.float32(1)) for name, a in given(message).items()}
        figures = MetricRecord({"num-examples": 1, "train_loss": 1.0})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": figures})
        return Message(content, reply_to=message)

    return app


def given(message: Message) -> ArrayRecord:
    return message.content["arrays"]


@pytest.mark.parametrize(
    ("kind", "stage", "sentence", "trains"),
    [
        ("unavailable", "unavailable", "the device was unavailable", False),
        ("dropout", "dropout", "dropped out after training", True),
        ("nan", "reply", "has values that are not finite", True),
        ("exploding", "reply", "has exploded: its norm is", True),
        ("error", "train", "the device raised an error", False),
    ],
)
def test_when_all_fail_in_one_way_the_round_is_recorded_and_empty(
    tmp_path, kind, stage, sentence, trains
):
    asked: list[int] = []
    run = simulation(client=noting(asked), faults=Faults(**{kind: 1.0})).run(tmp_path / "r")
    named = [json.loads(x) for x in (tmp_path / "r" / "failures.jsonl").read_text().splitlines()]
    assert [(f["round"], f["device"]) for f in named] == [(r, d) for r in (1, 2) for d in range(12)]
    assert {f["stage"] for f in named} == {stage}
    assert all(sentence in f["error"] for f in named)
    assert all(f["error"].startswith("simulated: ") for f in named)
    assert [line["figures"][f"faults/{stage}"] for line in run.rounds] == [12, 12]
    assert [line["train_loss"] for line in run.rounds] == [None, None]
    assert [line["cohort_size"] for line in run.rounds] == [12, 12]
    assert run.summary["model_sha256"] == run.start["model_sha256"]
    assert len(asked) == (24 if trains else 0)


RULES = [
    *(Bulyan(), FedAdagrad(), FedAdam(), FedAvg(), FedAvgM(server_momentum=0.9), FedMedian()),
    *(FedProx(proximal_mu=0.1), FedTrimmedAvg(), FedYogi(), Krum(), MultiKrum()),
    QFedAvg(client_learning_rate=1.0),
]


@pytest.mark.parametrize("kind", ["error", "nan"])
@pytest.mark.parametrize("selective", [False, True], ids=["bare", "Selective"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_under_every_strategy_the_model_stays_where_all_fail(rule, selective, kind):
    strategy = Selective(rule, EVERYONE) if selective else rule
    run = simulation(client=noting([]), strategy=strategy, faults=Faults(**{kind: 1.0})).run()
    assert [len(run.cohorts["arrived"]), len(run.cohorts["failed"])] == [0, 24]
    assert [line["train_loss"] for line in run.rounds] == [None, None]
    assert run.summary["model_sha256"] == run.start["model_sha256"]


@pytest.mark.parametrize(
    ("strategy", "bears_it"), [(FedAvg(), False), (FedMedian(), True)], ids=["FedAvg", "FedMedian"]
)
def test_large_values_that_can_be_averaged_count_and_only_a_robust_rule_bears_them(
    strategy, bears_it
):
    """One device of twelve adds 1 and scales by 1e15, ten million times below the limit."""
    usual = noting([])

    def scaling(message: Message, context: Context) -> Message:
        reply = usual(message, context)
        if context.node_id == 3:
            arrays = reply.content["arrays"]
            reply.content["arrays"] = ArrayRecord(
                {name: Array(a.numpy() * np.float32(1e15)) for name, a in arrays.items()}
            )
        return reply

    app = ClientApp()
    app.train()(scaling)
    once = Static(rounds=1)
    run = simulation(client=app, strategy=Selective(strategy, EVERYONE), schedule=once).run()
    assert run.rounds[0]["failures"] == 0
    moved = {n: p - MODEL.get_parameter(n) for n, p in run.model.items()}
    assert all(bool((change.abs() < 2).all()) for change in moved.values()) == bears_it


@pytest.mark.parametrize(
    "strategy",
    [FedAvg(), FedAdam(), *(Selective(s, EVERYONE) for s in (FedAvg(), FedAdam(), FedMedian()))],
    ids=["bare FedAvg", "bare FedAdam", "FedAvg", "FedAdam", "FedMedian"],
)
def test_a_failed_device_is_as_good_as_one_that_was_never_there(strategy):
    """One round under faults equals one of an app that leaves out the devices they befall."""
    faults = Faults(unavailable=0.1, dropout=0.1, nan=0.1, exploding=0.1, error=0.1)
    well = {d for d in range(12) if faults.fate(0, round=1, device=d) is None}
    usual = NLUClient(batch_size=64).app(
        NLUClient(batch_size=64).bind(PEOPLE.cut(1, "device"), MODEL, 0)
    )

    def but_for_some(message: Message, context: Context) -> Message:
        if context.node_id not in well:
            raise RuntimeError("not here")
        return usual(message, context)

    app = ClientApp()
    app.train()(but_for_some)
    app.evaluate()(usual)
    once = {"strategy": strategy, "schedule": Static(rounds=1)}
    faulty, absent = simulation(faults=faults, **once).run(), simulation(client=app, **once).run()
    assert 0 < len(well) < 12
    assert faulty.cohorts["arrived"].tolist() == absent.cohorts["arrived"].tolist() == sorted(well)
    assert faulty.summary["model_sha256"] == absent.summary["model_sha256"]
    assert faulty.rounds[0]["train_loss"] == absent.rounds[0]["train_loss"]


def test_faults_that_never_happen_change_nothing():
    hashes = {
        simulation(faults=faults).run().summary["model_sha256"]
        for faults in (None, Faults(), Faults(deadline=1e9))
    }
    assert len(hashes) == 1


def test_the_global_model_is_not_spoiled_where_an_app_replies_with_its_very_buffers():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        figures = MetricRecord({"num-examples": 1, "train_loss": 1.0})
        content = RecordDict({"arrays": given(message), "metrics": figures})
        return Message(content, reply_to=message)

    faults = Faults(nan=0.5)
    run = simulation(client=app, faults=faults).run()
    cohorts = np.split(run.cohorts["drawn"], run.cohorts["drawn_offsets"][1:-1])
    for line, cohort in zip(run.rounds, cohorts, strict=True):
        fates = [
            faults.fate(run.config["seed"], round=line["round"], device=d) for d in cohort.tolist()
        ]
        assert 0 < line["failures"] == fates.count("nan") < len(cohort)
    assert all(values.isfinite().all() for values in run.model.values())


@pytest.mark.parametrize("kind", ["nan", "exploding"])
@pytest.mark.parametrize(
    "own",
    [
        lambda _: Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=b"garbage"),
        lambda given: Array(np.ones(given.numpy().size + 1, np.float32)),
        lambda given: Array(np.full_like(given.numpy(), np.nan)),
    ],
    ids=["garbage", "shape", "NaN"],
)
def test_a_device_s_own_bad_reply_is_no_simulated_failure_where_a_fault_befalls_it(kind, own):
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = ArrayRecord({name: own(array) for name, array in given(message).items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    run = simulation(client=app, faults=Faults(**{kind: 1.0})).run()
    assert [line["figures"] for line in run.rounds if "faults/reply" in line["figures"]] == []
    assert [line["figures"]["failures/reply"] for line in run.rounds] == [12, 12]


def test_simulated_and_other_failures_are_counted_apart():
    faults = Faults(unavailable=0.15, dropout=0.15, nan=0.15, exploding=0.15, error=0.15)
    usual = noting([])

    def breaking(message: Message, context: Context) -> Message:
        if context.node_id % 2:
            raise RuntimeError("really")
        return usual(message, context)

    app = ClientApp()
    app.train()(breaking)
    run = simulation(client=app, faults=faults, schedule=Static(rounds=6)).run()
    for line in run.rounds:
        fates = [faults.fate(0, round=line["round"], device=d) for d in range(12)]
        asked = [d for d in range(12) if fates[d] not in ("unavailable", "error")]
        simulated = [fates[d] for d in asked if d % 2 == 0]
        figures = {n: v for n, v in line["figures"].items() if n.startswith("fa") and v}
        expected = {
            "failures/train": sum(d % 2 for d in asked),
            "faults/unavailable": fates.count("unavailable"),
            "faults/train": fates.count("error"),
            "faults/dropout": simulated.count("dropout"),
            "faults/reply": simulated.count("nan") + simulated.count("exploding"),
        }
        assert figures == {name: count for name, count in expected.items() if count}
        assert line["failures"] == sum(expected.values())


class TestClock:
    @pytest.mark.parametrize(
        ("client", "work"),
        [
            (NLUClient(batch_size=64, local_epochs=2), lambda held: 2 * held),
            (NLUClient(batch_size=4, local_steps=1), lambda held: np.minimum(4, held)),
            (noting([]), lambda held: held),
        ],
        ids=["epochs", "steps", "a user's app"],
    )
    def test_devices_are_late_by_their_work_and_speed(self, client, work):
        held, speed = PEOPLE.activity(), 10
        seconds = work(held) / speed
        deadline = float(np.median(seconds))
        faults = Faults(deadline=deadline, speed=speed, spread=0)
        run = simulation(client=client, faults=faults).run()
        late = np.flatnonzero(seconds > deadline)
        assert run.cohorts["failed"][: len(late)].tolist() == late.tolist()
        assert all(line["figures"].get("faults/late", 0) == len(late) for line in run.rounds)
        expected = deadline if len(late) else seconds.max()
        assert run.rounds[0]["figures"]["faults/simulated_seconds"] == pytest.approx(expected)

    def test_a_round_without_losses_ends_with_its_last_reply(self):
        faults = Faults(deadline=1e6, speed=10, spread=1, nan=0.5, error=0.1)
        run = simulation(faults=faults).run()
        for line in run.rounds:
            fates = [faults.fate(0, round=line["round"], device=d) for d in range(12)]
            came = np.flatnonzero([fate != "error" for fate in fates])
            last = faults.seconds(0, came, PEOPLE.activity()[came]).max()
            assert line["figures"]["faults/simulated_seconds"] == pytest.approx(last)

    def test_a_lost_reply_is_waited_for_until_the_deadline(self):
        run = simulation(faults=Faults(deadline=1e6, dropout=0.5)).run()
        assert [x["figures"]["faults/simulated_seconds"] for x in run.rounds] == [1e6, 1e6]

    def test_nobody_waits_for_devices_that_cannot_be_asked(self):
        run = simulation(faults=Faults(deadline=1e6, unavailable=1.0)).run()
        assert [x["figures"]["faults/simulated_seconds"] for x in run.rounds] == [0, 0]

    def test_without_a_deadline_there_is_no_clock(self):
        run = simulation(faults=Faults(dropout=0.5)).run()
        assert "faults/simulated_seconds" not in run.rounds[0]["figures"]


def test_faults_stand_in_the_config_and_counts_of_a_round_not_in_the_summary():
    run = simulation(faults=Faults(dropout=0.5, deadline=9)).run()
    assert run.config["simulation"]["faults"]["dropout"] == 0.5
    assert not [name for name in run.summary if name.startswith("faults/")]


def test_other_seeds_lose_other_devices():
    lost = [simulation(faults=Faults(dropout=0.5), seed=s).run().cohorts["failed"] for s in (1, 2)]
    assert lost[0].tolist() != lost[1].tolist()


@pytest.mark.slow
def test_a_run_with_a_third_of_its_replies_lost_still_learns():
    """At most 5 points of intent accuracy behind the faultless run, of the 80 and more it has."""
    people = Population.load("home", devices=200)
    fields = {
        "population": people,
        "model": BiLSTMTagger.sized_for(people),
        "client": NLUClient(),
        "strategy": Selective(FedAvg(), UniformSelection(cohort=32)),
        "schedule": Static(rounds=80),
        "evaluate_every": 80,
        "workers": None,
    }
    well = Simulation(**fields).run()
    faulty = Simulation(**fields, faults=Faults(dropout=0.3, nan=0.05, error=0.05)).run()
    failed = sum(line["failures"] for line in faulty.rounds)
    assert 0.36 < failed / faulty.summary["participations"] < 0.44
    assert well.summary["intent_accuracy"] > 0.8
    assert faulty.summary["intent_accuracy"] > well.summary["intent_accuracy"] - 0.05
