"""Flower's strategies aggregate exactly the planned cohort under exactly the planned weights."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    QFedAvg,
)

from clients import NLUClient
from fedsim import ConfigError, Population, Simulation, Static
from fedsim.engine.flower import quiet
from fedsim.models import BiLSTMTagger
from strategies import ActivitySelection, LogActivitySelection, Selective, UniformSelection

PEOPLE = Population.load("home", devices=10)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
ACTIVITY = PEOPLE.activity()

FLOWER: dict[str, Callable] = {
    "FedAvg": FedAvg,
    "FedAvgM": lambda: FedAvgM(server_momentum=0.5, server_learning_rate=0.8),
    "FedAdam": lambda: FedAdam(eta=0.02),
    "FedProx": lambda: FedProx(proximal_mu=0.1),
    "FedMedian": FedMedian,
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A policy that takes the named devices, round after round."""

    devices: Sequence[int]
    label = "chosen"
    natural_weighting = "examples"

    @property
    def cohort(self) -> float:
        return len(self.devices)

    def rates(self, activity):
        rates = np.zeros(len(activity))
        rates[list(self.devices)] = 1.0
        return rates


def moved(device: int) -> float:
    """How far `shifting_app` moves every parameter on a device."""
    return 0.01 * (device + 1) ** 2


def shifting_app(seen: list | None = None) -> ClientApp:
    """A user's own app: adds `moved(device)` to every parameter, and notes what it was asked."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if seen is not None:
            seen.append((context.node_id, dict(message.content["config"])))
        arrays = {
            name: Array(array.numpy() + np.float32(moved(context.node_id)))
            for name, array in message.content["arrays"].items()
        }
        metrics = MetricRecord({"num-examples": 1, "train_loss": 1.0})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        raise AssertionError("nobody asks devices to evaluate under Selective")

    return app


def run(strategy, *, rounds=1, seen=None, client=None, **options):
    return Simulation(
        population=PEOPLE,
        model=MODEL,
        client=client or shifting_app(seen),
        strategy=strategy,
        schedule=Static(rounds=rounds),
        workers=0,
        evaluate_every=100,
        **options,
    ).run()


def initial() -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in MODEL.named_parameters()}


@pytest.fixture
def never_waits():
    """Fail instead of hanging where Flower waits for more nodes."""

    def too_long(*_):
        raise TimeoutError("the strategy waits for devices that will never come")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("name", FLOWER)
@pytest.mark.parametrize("devices", [(), (4,), (2, 7)], ids=["none", "one", "two"])
def test_small_cohorts_are_ordinary_rounds(name, devices, never_waits):
    seen: list = []
    with quiet():
        strategy = FLOWER[name]()
    finished = run(Selective(strategy, Chosen(devices=devices)), rounds=2, seen=seen)
    assert sorted(device for device, _ in seen) == sorted([*devices, *devices])
    assert [line["cohort_size"] for line in finished.rounds] == [len(devices)] * 2
    unchanged = all(np.array_equal(finished.model[k], v) for k, v in initial().items())
    assert unchanged == (not devices)
    assert {str(p.dtype) for p in finished.model.values()} == {"torch.float32"}


@pytest.mark.parametrize("weighting", ["examples", "equal", "inverse-rate"])
def test_the_new_model_is_the_weighted_average(weighting):
    policy = LogActivitySelection(cohort=5)
    finished = run(Selective(FedAvg(), policy, weighting=weighting), seed=4)
    drawn = finished.cohorts["drawn"]
    assert 1 < len(drawn) < 10
    weights = {
        "examples": ACTIVITY[drawn].astype(float),
        "equal": np.ones(len(drawn)),
        "inverse-rate": ACTIVITY[drawn] / policy.rates(ACTIVITY)[drawn],
    }[weighting].tolist()
    for name, start in initial().items():
        average = np.zeros_like(start)
        for device, weight in zip(drawn.tolist(), weights, strict=True):
            average += (start + np.float32(moved(device))) * (weight / sum(weights))
        np.testing.assert_array_equal(finished.model[name].numpy(), average)


def test_auto_weighting_is_the_policys_own():
    assert Selective(FedAvg(), UniformSelection(cohort=1)).weighting == "examples"
    assert Selective(FedAvg(), ActivitySelection(cohort=1)).weighting == "equal"
    assert Selective(FedAvg(), LogActivitySelection(cohort=1)).weighting == "inverse-rate"
    assert Selective(FedMedian(), UniformSelection(cohort=1)).weighting == "none"


def test_median_ignores_weights():
    finished = run(Selective(FedMedian(), Chosen(devices=(1, 3, 9))))
    for name, start in initial().items():
        np.testing.assert_array_equal(finished.model[name], start + np.float32(moved(3)))


@pytest.mark.parametrize("rule", [FedMedian(), QFedAvg(client_learning_rate=1.0)])
def test_an_explicit_weighting_of_a_rule_that_ignores_weights_is_refused(rule):
    with pytest.raises(ConfigError, match=r"ignores weights, .* leave it at 'auto'"):
        Selective(rule, UniformSelection(cohort=1), weighting="equal")


def test_server_momentum_by_hand():
    strategy = FedAvgM(server_momentum=0.5, server_learning_rate=0.8)
    finished = run(Selective(strategy, Chosen(devices=(0, 6)), weighting="equal"), rounds=2)
    update = (moved(0) + moved(6)) / 2
    total = 0.8 * update + 0.8 * (0.5 * update + update)
    for name, start in initial().items():
        np.testing.assert_allclose(finished.model[name], start + total, atol=2e-6)


def test_server_adam_by_hand():
    strategy = FedAdam(eta=0.02, beta_1=0.9, beta_2=0.99, tau=1e-3)
    finished = run(Selective(strategy, Chosen(devices=(0, 6)), weighting="equal"), rounds=2)
    update = (moved(0) + moved(6)) / 2
    first = second = total = 0.0
    for round in (1, 2):
        first = 0.9 * first + 0.1 * update
        second = 0.99 * second + 0.01 * update**2
        # Flower counts rounds from 1 and corrects the bias one step late.
        rate = 0.02 * np.sqrt(1 - 0.99 ** (round + 1)) / (1 - 0.9 ** (round + 1))
        total += rate * first / (np.sqrt(second) + 1e-3)
    for name, start in initial().items():
        np.testing.assert_allclose(finished.model[name], start + total, atol=2e-6)


def test_a_strategy_object_can_serve_several_runs():
    strategy = Selective(FedAvgM(server_momentum=0.9), Chosen(devices=(1, 2)))
    first, second = (run(strategy, rounds=2).summary["model_sha256"] for _ in range(2))
    assert first == second


def test_fedprox_sends_its_proximal_weight():
    seen: list = []
    run(Selective(FedProx(proximal_mu=0.25), Chosen(devices=(1,))), seen=seen)
    assert seen == [(1, {"period": 0, "proximal-mu": 0.25, "server-round": 1})]


def test_fedprox_holds_devices_back():
    def distance(mu):
        with quiet():
            strategy = Selective(FedProx(proximal_mu=mu), UniformSelection(cohort=10))
        model = run(strategy, client=NLUClient(learning_rate=0.1, local_epochs=3)).model
        return sum(((model[k] - v) ** 2).sum().item() for k, v in MODEL.named_parameters())

    assert distance(5.0) < 0.5 * distance(0.0)


def test_a_proximal_term_on_both_sides_is_refused():
    strategy = Selective(FedProx(proximal_mu=0.1), UniformSelection(cohort=2))
    with pytest.raises(ConfigError, match=r"sends proximal-mu=0.1 and the client sets"):
        run(strategy, client=NLUClient(proximal_mu=0.2))


def test_fraction_train_is_refused():
    with pytest.raises(ConfigError, match=r"fraction_train of FedAvg is 0.5; .* leave it at 1.0"):
        Selective(FedAvg(fraction_train=0.5), UniformSelection(cohort=2))


def test_a_strategy_without_a_weight_key_is_refused():
    private = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 5)
    with pytest.raises(ConfigError, match="has no weighted_by_key"):
        Selective(private, UniformSelection(cohort=2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weighting": "size"}, "weighting is 'size'; choose one of auto, examples, equal"),
        ({"draw": "coin"}, "draw is 'coin'; choose one of poisson, fixed"),
    ],
)
def test_unknown_names_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Selective(FedAvg(), UniformSelection(cohort=2), **options)


def test_start_of_flowers_own_loop_is_refused_with_the_way_out():
    selective = Selective(FedAvg(), UniformSelection(cohort=2))
    with pytest.raises(ConfigError, match=r"run it through fedsim\.Simulation"):
        selective.configure_train(1, None, None, grid=object())


def test_a_wrapped_strategy_that_trains_a_part_of_the_cohort_is_refused():
    class Half(FedAvg):
        def configure_train(self, *args):
            return list(super().configure_train(*args))[:1]

    with pytest.raises(ConfigError, match="must train every node it is shown, once"):
        run(Selective(Half(min_train_nodes=1), Chosen(devices=(1, 2, 3))))


def test_a_plan_depends_on_seed_and_round_alone():
    selective = Selective(FedAvg(), ActivitySelection(cohort=4))
    later, first = (selective.plan(r, 0, ACTIVITY, seed=1) for r in (2, 1))
    again = selective.plan(2, 0, ACTIVITY, seed=1)
    assert later.cohort.tolist() == again.cohort.tolist() != first.cohort.tolist()
    assert (later.round, later.period, later.draw) == (2, 0, "poisson")
    np.testing.assert_array_equal(later.rates, selective.policy.rates(ACTIVITY))
    np.testing.assert_array_equal(later.examples, ACTIVITY[later.cohort])


class TestBareStrategy:
    """Without Selective: Flower draws, devices evaluate, nothing hangs."""

    def test_it_draws_the_same_devices_again_and_leaves_global_randomness_alone(self):
        random.seed(99)
        before = random.getstate()
        strategy = FedAvg(fraction_train=0.3, fraction_evaluate=0.3)
        options = {"client": NLUClient(), "rounds": 3}
        first, again = run(strategy, **options), run(strategy, **options)
        assert random.getstate() == before
        assert first.cohorts["drawn"].tolist() == again.cohorts["drawn"].tolist()
        assert first.summary["model_sha256"] == again.summary["model_sha256"]
        assert [line["cohort_size"] for line in first.rounds] == [3, 3, 3]
        other = run(strategy, seed=1, **options)
        assert other.cohorts["drawn"].tolist() != first.cohorts["drawn"].tolist()

    def test_what_devices_evaluate_stands_in_the_record(self):
        figures = run(FedAvg(), client=NLUClient()).rounds[0]["figures"]
        assert 0 <= figures["evaluate/intent_accuracy"] <= 1
        assert figures["evaluate/eval_loss"] > 0

    @pytest.mark.parametrize("field", ["min_train_nodes", "min_evaluate_nodes"])
    def test_one_that_would_wait_for_ever_is_refused(self, field, never_waits):
        with pytest.raises(ConfigError, match=rf"{field} of FedAvg is 11, .* choose 10 or fewer"):
            run(FedAvg(**{field: 11}))

    def test_one_that_overrides_start_is_refused_by_name(self):
        class Restless(FedAvg):
            def start(self, *args, **kwargs):
                time.sleep(1)

        for strategy in (Restless(), Selective(Restless(), UniformSelection(cohort=2))):
            with pytest.raises(ConfigError, match=r"Restless overrides start\(\)"):
                run(strategy)

    def test_a_round_in_which_nobody_holds_data_leaves_the_model_alone(self):
        empty = PEOPLE.without(np.ones(int(PEOPLE.counts.sum()), bool))
        finished = Simulation(
            population=empty,
            model=MODEL,
            client=NLUClient(),
            strategy=FedAvg(),
            schedule=Static(rounds=1),
            workers=0,
        ).run()
        assert all(np.array_equal(finished.model[k], v) for k, v in initial().items())
        assert finished.rounds[0]["train_loss"] is None

    def test_a_strategy_that_writes_into_replies_cannot_touch_the_global_model(self):
        # Device 0 holds nothing, and would reply with the very tensors it was sent.
        owner = np.repeat(np.arange(10), ACTIVITY)
        people = PEOPLE.without(owner == 0)
        strategy = QFedAvg(client_learning_rate=1.0, q=0.5)
        finished = Simulation(
            population=people,
            model=MODEL,
            client=NLUClient(learning_rate=1e-6),
            strategy=strategy,
            schedule=Static(rounds=1),
            workers=0,
        ).run()
        for name, start in initial().items():
            np.testing.assert_allclose(finished.model[name], start, atol=1e-3)


@pytest.mark.parametrize(
    "rates", [[0.1, float("nan")], [0.1, 1.5], [0.1]], ids=["nan", "above 1", "too few"]
)
def test_rates_that_are_no_probabilities_are_refused_without_privacy_too(rates):
    class Odd:
        cohort, label, natural_weighting = 1.0, "odd", "equal"

        def rates(self, activity):
            return np.array(rates)

    with pytest.raises(ConfigError, match=r"rates\(\) of Odd gave .* 2 devices a probability"):
        Selective(FedAvg(), Odd()).plan(1, 0, np.array([3, 4]), 0)
