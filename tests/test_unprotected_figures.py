"""While devices are private, nothing but models that were released decides what comes next.

Losses, numbers of examples, failures, test and attack figures are outside every claim: were one of
them read while training, the next model would depend on it, and no ledger covers that.
"""

import ast
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx
from reading import UniformUntilItSlows

from fedsim import Continual, Population, Simulation
from fedsim.models import BiLSTMTagger
from fedsim.plan import Scores
from fedsim.privacy.release import AdaptiveClipping, DeviceLevel
from fedsim.training.scoring import Scorer
from strategies import ActivitySelection, PrivateAggregation, PublicScale, Selective

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
FAILING = (1, 4, 9)
ROUNDS = 6

ADAPTIVE = DeviceLevel(noise_multiplier=0.5, delta=1e-3, adaptive=AdaptiveClipping())
RETIRING = DeviceLevel(noise_multiplier=1.0, delta=1e-3, device_budget=4.0)
FILTERED = DeviceLevel(noise_multiplier=1.0, delta=1e-3, device_budget=8.0)
STOPPING = DeviceLevel(noise_multiplier=1.0, delta=1e-3, run_budget=6.0)
TARGET = DeviceLevel(epsilon=5.0, delta=1e-3)
PUBLIC = DeviceLevel(
    noise_multiplier=1.0, delta=1e-3, adjacency="add-remove", weight_cap=1.0, denominator=4.0
)
ACTIVE = ActivitySelection(cohort=6, cap=0.9)


def app(said, failing) -> ClientApp:
    """Trains alike whatever it says of itself; some devices fail in one way or another."""
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        device = context.node_id
        arrays = {
            name: array.numpy() * np.float32(0.99) + np.float32(0.01 * device)
            for name, array in message.content["arrays"].items()
        }
        if device in FAILING:
            arrays = failing(arrays)
        content = {
            "arrays": ArrayRecord({name: Array(each) for name, each in arrays.items()}),
            "metrics": MetricRecord(said(device)),
        }
        return Message(RecordDict(content), reply_to=message)

    return made


def raises(arrays):
    raise ValueError("broken")


def sends_nan(arrays):
    return {name: each * np.float32(np.nan) for name, each in arrays.items()}


def sends_another_shape(arrays):
    return {name: each.ravel()[:1] for name, each in arrays.items()}


WORLDS = {
    "honest": (lambda device: {"num-examples": 5, "train_loss": 1.0}, raises),
    "boasting": (lambda device: {"num-examples": 10**9, "train_loss": -1e6 * device}, sends_nan),
    "odd": (lambda device: {"num-examples": 0, "seen": device, f"x{device}": 1.0}, sends_nan),
    "silent": (lambda device: {}, sends_another_shape),
}
"""What devices say of themselves, and how some of them fail: every figure of a record differs."""


def history(mechanism, optimizer, policy, world, every):
    """Cohort, rates, mechanism and model of every round, and the run."""
    seen = []

    def note(finished):
        parameters = {name: p.clone() for name, p in finished.parameters.items()}
        seen.append((finished.plan, parameters))
        return {}

    run = Simulation(
        population=PEOPLE,
        model=MODEL,
        client=app(*WORLDS[world]),
        strategy=Selective(PrivateAggregation(optimizer(), mechanism), policy),
        schedule=Continual(periods=2, rounds=ROUNDS),
        workers=0,
        evaluate_every=every,
        probes=[note],
    ).run(progress=False)
    return seen, run


CASES = {
    "adaptive": (ADAPTIVE, lambda: FedAdam(eta=0.01), ACTIVE),
    "retirement": (RETIRING, FedAvg, ACTIVE),
    "stopping": (STOPPING, lambda: FedAvgM(server_momentum=0.5), ACTIVE),
    "following": (
        FILTERED,
        lambda: FedAdam(eta=0.01),
        UniformUntilItSlows(cohort=6, slow=0.8),
    ),
    "calibrated": (TARGET, lambda: FedProx(proximal_mu=0.1), ACTIVE),
    "public": (
        PUBLIC,
        FedAvg,
        PublicScale(policy=ActivitySelection(cohort=4, cap=0.5), scale=0.02),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_alike_whatever_its_unprotected_figures_are(case, monkeypatch):
    """Cohorts, rates, noise, models and claims are the same to the bit, where every loss, number of
    examples, failure and test figure differs."""
    straight, first = history(*CASES[case], "honest", every=1)
    assert (len(straight) < ROUNDS) == (case == "stopping")
    assert case != "retirement" or (straight[0][0].rates > straight[2][0].rates).any()
    assert case != "following" or (straight[0][0].rates < straight[-1][0].rates).any()

    score = Scorer.__call__

    def scores(scorer, parameters):
        said = score(scorer, parameters)
        return Scores((said.intents + 1) % 3, said.slots, 1e3 * said.losses + 1)

    monkeypatch.setattr(Scorer, "__call__", scores)
    for world in ("boasting", "odd", "silent"):
        other, run = history(*CASES[case], world, every=4)
        assert len(other) == len(straight)
        for (plan, model), (known, wanted) in zip(other, straight, strict=True):
            np.testing.assert_array_equal(plan.cohort, known.cohort)
            np.testing.assert_array_equal(plan.rates, known.rates)
            assert plan.mechanism == known.mechanism
            for name, p in wanted.items():
                np.testing.assert_array_equal(model[name].numpy(), p.numpy())
        for key in ("epsilon_max", "epsilon_median", "epsilon_participation_max"):
            assert [line[key] for line in run.rounds] == [line[key] for line in first.rounds]
        for key in ("train_loss", "test_loss"):
            mine, theirs = ([line[key] for line in each.rounds] for each in (run, first))
            assert mine != theirs, f"{key} was to differ"


class Sealed(MetricRecord):
    """What a device says of itself, which nobody may look at."""

    def __getitem__(self, key):
        raise AssertionError(f"{key} of a device was read")

    def get(self, key, default=None):
        raise AssertionError(f"{key} of a device was read")

    def __iter__(self):
        raise AssertionError("figures of a device were read")


def test_nothing_but_parameters_is_read_from_replies_and_the_optimizer_is_told_nothing_else():
    heard = []

    class Listening(FedAdam):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            heard.extend(dict(reply.content["metrics"]) for reply in replies)
            return super().aggregate_train(server_round, replies)

    class Sealing(PrivateAggregation):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            for reply in replies:
                reply.content["metrics"] = Sealed()
            return super().aggregate_train(server_round, replies)

    Simulation(
        population=PEOPLE,
        model=MODEL,
        client=app(*WORLDS["boasting"]),
        strategy=Selective(Sealing(Listening(), ADAPTIVE), ACTIVE),
        schedule=Continual(periods=2, rounds=2),
        workers=0,
    ).run(progress=False)
    assert heard == [{"num-examples": 1.0}] * 2


FIGURES = ("fedsim.probes", "fedsim.record", "fedsim.report", "fedsim.leakage", "fedsim.tracking")
TRAINING = [
    *sorted((ROOT / "strategies").glob("*.py")),
    *sorted((ROOT / "clients").glob("*.py")),
    *sorted((ROOT / "fedsim" / "training").rglob("*.py")),
    *(ROOT / "fedsim" / "privacy" / f"{name}.py" for name in ("release", "device_noise")),
]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_trains_does_not_know_the_rooms_that_measure(path):
    tree = ast.parse(path.read_text())
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    imported += [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert [name for name in imported if name.startswith(FIGURES)] == []
    assert not {"FinishedRound", "Failure"} & {name.rpartition(".")[2] for name in imported}
