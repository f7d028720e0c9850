"""What a device does with a Flower message."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from clients import NLUClient
from fedsim import ConfigError, Population
from fedsim.engine.flower import task_identity, to_parameters, to_record
from fedsim.engine.local import LocalGrid
from fedsim.engine.replies import NOTHING_HELD_OUT
from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.privacy import ExampleLevel

PEOPLE = Population.load("home", devices=10).cut(2)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
PARAMETERS = {name: p.detach().clone() for name, p in MODEL.named_parameters()}
BUSY = int(np.argmax(PEOPLE.activity(0)))


def ask(kind: str, device: int, client=None, people=PEOPLE, **config) -> Message:
    """The reply of one device to one message."""
    client = client or NLUClient()
    app = client.app(client.bind(people, MODEL, seed=0))
    record = ConfigRecord({"server-round": 1, "period": 0, **config})
    content = RecordDict({"arrays": to_record(PARAMETERS), "config": record})
    with task_identity(), LocalGrid(app, devices=people.devices, workers=0) as grid:
        (reply,) = grid.send_and_receive([Message(content, device, kind)])
    return reply


def trained(**options) -> dict[str, torch.Tensor]:
    return to_parameters(ask("train", BUSY, **options).content["arrays"])


def distance(parameters) -> float:
    return sum(((p - PARAMETERS[name]) ** 2).sum().item() for name, p in parameters.items())


def test_training_replies_with_one_array_record_and_one_metric_record():
    reply = ask("train", BUSY)
    assert set(reply.content) == {"arrays", "metrics"}
    assert isinstance(reply.content["arrays"], ArrayRecord)
    metrics = reply.content["metrics"]
    assert metrics["num-examples"] == metrics["seen"] == PEOPLE.activity(0)[BUSY]
    assert metrics["train_loss"] > 0
    assert distance(to_parameters(reply.content["arrays"])) > 0


def test_every_device_replies_with_the_same_keys_even_one_that_holds_nothing():
    owner = np.repeat(np.arange(10), PEOPLE.counts.sum(axis=1))
    people = PEOPLE.without(owner == 3)
    keys = {tuple(ask("train", d, people=people).content["metrics"]) for d in range(10)}
    assert keys == {("num-examples", "train_loss", "seen")}


def test_a_device_that_holds_nothing_replies_with_a_copy_of_what_it_received():
    owner = np.repeat(np.arange(10), PEOPLE.counts.sum(axis=1))
    reply = ask("train", 3, people=PEOPLE.without(owner == 3))
    assert reply.content["metrics"]["num-examples"] == 0
    for name, array in reply.content["arrays"].items():
        np.testing.assert_array_equal(array.numpy(), PARAMETERS[name])
        assert not np.shares_memory(array.numpy(), PARAMETERS[name].numpy())


def test_training_leaves_the_received_parameters_as_they_were():
    before = {name: p.clone() for name, p in PARAMETERS.items()}
    trained()
    assert all(torch.equal(PARAMETERS[name], p) for name, p in before.items())


def test_the_period_of_the_message_decides_what_is_trained_on():
    reply = ask("train", BUSY, period=1)
    assert reply.content["metrics"]["num-examples"] == PEOPLE.activity(1)[BUSY]
    assert distance(trained(period=1)) != distance(trained(period=0))


def test_the_round_decides_the_order_of_examples():
    first, same, second = (trained(**{"server-round": r}) for r in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_the_servers_proximal_weight_wins_over_the_clients():
    own = NLUClient(learning_rate=0.1, proximal_mu=5.0)
    none = NLUClient(learning_rate=0.1)
    assert distance(trained(client=own)) < 0.9 * distance(trained(client=none))
    sent = trained(client=own, **{"proximal-mu": 0.0})
    assert distance(sent) == distance(trained(client=none))


def test_queries_are_answered_with_activity():
    for period in (0, 1):
        reply = ask("query", BUSY, period=period)
        assert reply.content["metrics"]["activity"] == PEOPLE.activity(period)[BUSY]


def test_evaluation_scores_the_devices_own_test_utterances():
    reply = ask("evaluate", BUSY)
    metrics = reply.content["metrics"]
    assert metrics["num-examples"] == (PEOPLE.test.device == BUSY).sum()
    assert 0 <= metrics["intent_accuracy"] <= 1
    assert metrics["eval_loss"] > 0


def test_a_device_without_test_utterances_says_so():
    without = sorted(set(range(10)) - set(PEOPLE.test.device.tolist()))
    reply = ask("evaluate", without[0])
    assert reply.has_error()
    assert reply.error.reason == "no held-out utterances"
    assert reply.error.code == NOTHING_HELD_OUT


def test_local_steps_take_the_place_of_epochs():
    seen = ask("train", BUSY, client=NLUClient(local_steps=3, batch_size=4)).content["metrics"]
    assert seen["seen"] == 12
    twice = ask("train", BUSY, client=NLUClient(local_epochs=2)).content["metrics"]
    assert twice["seen"] == 2 * twice["num-examples"]


def test_the_default_learning_rate_follows_optimizer_and_model():
    transformer = TransformerTagger.sized_for(PEOPLE)
    assert NLUClient().rate(MODEL) == MODEL.sgd_rate
    assert NLUClient().rate(transformer) == transformer.sgd_rate != MODEL.sgd_rate
    private = NLUClient(privacy=ExampleLevel(clip_norm=4.0, noise_multiplier=1.0))
    assert private.rate(transformer) == transformer.private_rate / 4
    assert NLUClient(optimizer="adamw").rate(MODEL) == 1e-3
    assert NLUClient(learning_rate=0.3).rate(MODEL) == 0.3


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("batch_size", 0, "choose 1 or more"),
        ("local_epochs", 0, "choose 1 or more"),
        ("local_steps", 0, "choose 1 or more"),
        ("learning_rate", 0, "choose a finite rate above 0"),
        ("learning_rate", float("nan"), "choose a finite rate above 0"),
        ("proximal_mu", -0.1, "choose 0"),
        ("optimizer", "adam", "choose one of sgd, adamw"),
    ],
)
def test_impossible_settings_are_refused_by_field(field, value, remedy):
    with pytest.raises(ConfigError, match=rf"^{field} is .*; {remedy}"):
        NLUClient(**{field: value})


def test_a_private_client_serves_as_many_examples_as_its_coins_choose_on_average():
    private = ExampleLevel(noise_multiplier=1.0)
    held = np.array([0, 5, 40])
    assert NLUClient(privacy=private).examples_served(held).tolist() == [0, 5, 48]
    assert NLUClient(privacy=private, local_steps=2).examples_served(held).tolist() == [0, 10, 32]
