"""Strategies see devices, Flower's runtime sees nodes, and both see the same round."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAdam
from hypothesis import given
from hypothesis import strategies as st
from reading import HighestLosses, UniformUntilItSlows
from wire import NODES, Wire

from experiments.flower_app import client_app, device
from experiments.options import RunOptions
from experiments.recipe import build
from fedsim import ConfigError
from fedsim.engine.flower import NODE_UNAVAILABLE, task_identity
from fedsim.engine.nodes import HOSTED, NodeGrid, hosted, part
from fedsim.privacy.release import DeviceLevel
from strategies import PrivateAggregation, Selective

OPTIONS = RunOptions(
    devices=20, rounds=2, cohort=5, selection="activity", local_steps=2, workers=0, seed=3
)
RUN_CONFIG = {"devices": 20, "local-steps": 2, "seed": 3}
RESTARTED = 2**60 + 3
"""A node that was not there at the start."""
PEOPLE = build(OPTIONS).population.cut(1)


@pytest.fixture(autouse=True)
def identity():
    with task_identity():
        yield


@pytest.fixture
def wire() -> Wire:
    return Wire(client_app, RUN_CONFIG)


def asking(*devices: int) -> list[Message]:
    """How many examples devices hold, all messages around one content."""
    content = RecordDict({"round": ConfigRecord({"period": 0, "server-round": 1})})
    return [Message(content, device, "query") for device in devices]


def answers(grid: NodeGrid, *devices: int) -> dict[int, int]:
    """What devices hold, of those that did not fail."""
    replies = [r for r in grid.send_and_receive(asking(*devices)) if r.has_content()]
    return {r.metadata.src_node_id: r.content["metrics"]["activity"] for r in replies}


@given(devices=st.integers(1, 40), parts=st.integers(1, 50))
def test_every_device_is_in_one_part_and_parts_differ_by_one_device(devices, parts):
    each = [part(devices, index, parts) for index in range(parts)]
    assert [d for own in each for d in own] == list(range(devices))
    assert max(map(len, each)) - min(map(len, each)) <= 1


def test_nodes_are_devices(wire):
    assert list(NodeGrid(wire, PEOPLE).get_node_ids()) == list(range(20))


def test_every_device_answers_for_itself_through_the_node_that_hosts_it(wire):
    activity = PEOPLE.activity(0)
    devices = (19, 0, 6, 7, 12, 13)
    assert answers(NodeGrid(wire, PEOPLE), *devices) == {d: activity[d] for d in devices}
    went = {device: node for node, kind, device in wire.pushed if kind == "query"}
    assert went == {d: node for k, node in enumerate(NODES) for d in devices if d in part(20, k, 3)}


def test_messages_go_out_in_the_order_they_were_given(wire):
    answers(NodeGrid(wire, PEOPLE), 19, 3, 11, 4)
    assert [device for _, kind, device in wire.pushed if kind == "query"] == [19, 3, 11, 4]


def test_what_the_messages_of_a_round_share_stays_as_it_was(wire):
    messages = asking(3, 4)
    list(NodeGrid(wire, PEOPLE).send_and_receive(messages))
    assert messages[0].content is messages[1].content
    assert dict(messages[0].content) == {"round": {"period": 0, "server-round": 1}}


def test_pushed_messages_can_be_pulled_once(wire):
    grid = NodeGrid(wire, PEOPLE)
    ids = list(grid.push_messages(asking(2, 17)))
    assert sorted(r.metadata.src_node_id for r in grid.pull_messages(ids)) == [2, 17]
    assert list(grid.pull_messages(ids)) == []


def test_no_messages_no_replies(wire):
    assert list(NodeGrid(wire, PEOPLE).send_and_receive([])) == []


def test_two_rounds_over_the_wire_equal_those_in_this_process(wire):
    here = build(OPTIONS).run()
    there = build(OPTIONS).run(grid=wire)
    assert there.summary["model_sha256"] == here.summary["model_sha256"]
    for name, drawn in here.cohorts.items():
        assert np.array_equal(there.cohorts[name], drawn)
    figures = ("train_loss", "test_loss", "intent_accuracy", "slot_f1", "cohort_examples")
    for ours, theirs in zip(here.rounds, there.rounds, strict=True):
        assert [ours[name] for name in figures] == [theirs[name] for name in figures]


@pytest.mark.parametrize("strategy", ["fedadam", "fedmedian"])
def test_other_strategies_run_over_the_wire(wire, strategy):
    options = replace(OPTIONS, strategy=strategy)
    here, there = build(options).run(), build(options).run(grid=wire)
    assert there.summary["model_sha256"] == here.summary["model_sha256"]


@pytest.mark.parametrize("reads", ["releases", "private"])
def test_rates_that_follow_releases_or_replies_are_the_same_over_the_wire(wire, reads):
    budget = 20.0 if reads == "releases" else None
    level = DeviceLevel(clip_norm=0.5, noise_multiplier=1.0, device_budget=budget)
    policy = {
        "releases": UniformUntilItSlows(cohort=5, slow=1e9),
        "private": HighestLosses(cohort=5),
    }[reads]
    strategy = Selective(PrivateAggregation(FedAdam(eta=0.01), level), policy)
    simulation = replace(build(replace(OPTIONS, rounds=4)), strategy=strategy)
    here, there = simulation.run(), simulation.run(grid=wire)
    assert there.summary["model_sha256"] == here.summary["model_sha256"]
    assert len(here.cohorts["rates"]) > 1
    assert np.array_equal(there.cohorts["rates"], here.cohorts["rates"])


def test_devices_of_a_failing_node_fail_and_the_round_goes_on(wire):
    def ail(finished):
        wire.failing = {NODES[1]}
        return {}

    run = replace(build(OPTIONS), probes=[ail]).run(grid=wire)
    failed = run.cohorts["failed"].tolist()
    assert run.rounds[0]["failures"] == 0
    assert failed
    assert set(failed) < set(run.cohorts["drawn"].tolist())
    assert set(failed) <= set(part(20, 1, 3))


def test_devices_of_a_node_that_is_gone_fail_until_it_is_back(wire):
    grid = NodeGrid(wire, PEOPLE)
    wire.gone = {NODES[0]}
    assert set(answers(grid, 0, 10, 19)) == {10, 19}
    wire.gone = set()
    assert set(answers(grid, 0, 10, 19)) == {0, 10, 19}


def test_a_device_without_a_node_is_unavailable_and_nobody_waits_for_it(wire):
    grid = NodeGrid(wire, PEOPLE)
    wire.gone = {NODES[0]}
    (reply, _) = grid.send_and_receive(asking(10, 0))
    assert reply.metadata.src_node_id == 0
    assert (reply.error.code, reply.error.reason) == (NODE_UNAVAILABLE, "no node hosts the device")


def test_a_node_that_was_restarted_takes_the_place_of_the_one_that_is_still_listed(wire):
    grid = NodeGrid(wire, PEOPLE)
    wire.join(RESTARTED, 0)
    answers(grid, 10)
    before = len(wire.pushed)
    answers(grid, 0, 10)
    assert wire.pushed[before:] == [(RESTARTED, "query", 0), (NODES[1], "query", 10)]


def test_a_node_that_comes_back_while_a_round_waits_takes_part_in_the_next(wire, monkeypatch):
    grid = NodeGrid(wire, PEOPLE)
    wire.mute = {NODES[0]}
    then = iter([lambda: wire.join(RESTARTED, 0), lambda: None, wire.mute.clear])
    monkeypatch.setattr("fedsim.engine.nodes.time.sleep", lambda seconds: next(then)())
    assert set(answers(grid, 0, 10, 19)) == {0, 10, 19}
    before = len(wire.pushed)
    assert questions(wire, RESTARTED) == 1
    answers(grid, 0)
    assert [node for node, *_ in wire.pushed[before:]] == [RESTARTED]


def test_a_round_that_nobody_could_train_waits_for_a_node(wire, monkeypatch):
    grid = NodeGrid(wire, PEOPLE)
    wire.gone = set(NODES)
    then = iter([lambda: None, lambda: wire.gone.discard(NODES[1])])
    monkeypatch.setattr("fedsim.engine.nodes.time.sleep", lambda seconds: next(then)())
    assert set(answers(grid, 0, 10, 19)) == {10}


def test_a_round_that_waited_for_a_node_in_vain_is_over(wire):
    grid = NodeGrid(wire, PEOPLE, patience=0)
    wire.gone = set(NODES)
    assert answers(grid, 0, 10, 19) == {}


def questions(wire: Wire, node: int) -> int:
    """How often a node was asked what it hosts."""
    return sum(kind == f"query.{HOSTED}" and to == node for to, kind, _ in wire.pushed)


def returned(wire: Wire, node: int) -> NodeGrid:
    """A grid that has lost a node, which is just back, and has not been asked yet."""
    grid = NodeGrid(wire, PEOPLE)
    wire.gone = {node}
    assert 0 not in answers(grid, 0, 10)
    wire.gone = set()
    return grid


def test_no_round_waits_for_a_mute_node_which_is_asked_once(wire):
    grid = returned(wire, NODES[0])
    wire.mute = {NODES[0]}
    for _ in range(3):
        assert set(answers(grid, 0, 10, 19)) == {10, 19}
    assert questions(wire, NODES[0]) == 2
    wire.mute = set()
    assert set(answers(grid, 0, 10, 19)) == {0, 10, 19}
    assert questions(wire, NODES[0]) == 2


def test_a_node_whose_answer_failed_is_asked_again(wire, caplog):
    grid = returned(wire, NODES[0])
    wire.failing = {NODES[0]}
    for _ in range(3):
        assert set(answers(grid, 0, 10, 19)) == {10, 19}
    assert caplog.messages == ["a node cannot host devices: node unavailable"]
    wire.failing = set()
    assert set(answers(grid, 0, 10, 19)) == {0, 10, 19}


def test_a_node_of_another_population_is_asked_once_until_it_has_gone(wire, caplog):
    grid = returned(wire, NODES[0])
    wire.retell(NODES[0], {**RUN_CONFIG, "devices": 21})
    for _ in range(3):
        assert set(answers(grid, 0, 10, 19)) == {10, 19}
    assert questions(wire, NODES[0]) == 2
    assert [m[:42] for m in caplog.messages] == ["a node hosts devices of another population"]
    wire.gone = {NODES[0]}
    answers(grid, 10)
    wire.gone = set()
    wire.retell(NODES[0], RUN_CONFIG)
    assert set(answers(grid, 0, 10, 19)) == {0, 10, 19}


def test_a_round_without_messages_asks_nobody(wire):
    grid = returned(wire, NODES[0])
    before = len(wire.pushed)
    assert list(grid.send_and_receive([])) == []
    assert len(wire.pushed) == before


def test_a_run_that_lost_a_node_for_a_round_trains_its_devices_again(wire):
    def lose(finished):
        wire.gone = {NODES[1]} if finished.plan.round == 1 else set()
        return {}

    options = replace(OPTIONS, rounds=3, cohort=12)
    run = replace(build(options), probes=[lose]).run(grid=wire)
    assert [r["failures"] > 0 for r in run.rounds] == [False, True, False]


def test_a_start_that_was_waited_for_in_vain_says_what_went_wrong(wire):
    wire.failing = {NODES[2]}
    with pytest.raises(
        ConfigError, match=r"7 of 20 .* after 0 s \(a node .*: node unavailable\); s"
    ):
        NodeGrid(wire, PEOPLE, patience=0)


def test_what_a_device_raises_is_an_error_reply_of_one_line(wire):
    grid = NodeGrid(wire, PEOPLE)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 5, "train")])
    assert reply.metadata.src_node_id == 5
    assert reply.error.reason == "StopIteration"


def test_an_exception_that_cannot_speak_is_an_error_reply_all_the_same(wire, monkeypatch):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    def fail(options):
        raise Mute

    grid = NodeGrid(wire, PEOPLE)
    monkeypatch.setitem(device.__globals__, "_node", fail)
    (reply,) = grid.send_and_receive(asking(5))
    assert reply.error.reason == "Mute, whose message cannot be read: RuntimeError"


def test_kernels_on_a_node_run_on_one_thread(wire):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        device.__globals__["_node"].cache_clear()
        NodeGrid(wire, PEOPLE)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_part_without_a_node_is_refused(wire):
    wire.gone = {NODES[2]}
    with pytest.raises(ConfigError, match=r"7 of 20 devices have no node after 0 s; start a Super"):
        NodeGrid(wire, PEOPLE, patience=0)


def test_nodes_that_read_another_corpus_are_refused():
    with pytest.raises(ConfigError, match="another population than the server's"):
        NodeGrid(Wire(client_app, {"devices": 21}), PEOPLE)


def test_a_node_that_cannot_read_the_corpus_says_why():
    with pytest.raises(ConfigError, match=r"a node cannot host devices: /nowhere/at\.jsonl does"):
        NodeGrid(Wire(client_app, {"corpus": "/nowhere/at.jsonl"}), PEOPLE)


@pytest.mark.parametrize("config", [{}, {"partition-id": 3, "num-partitions": 3}])
def test_a_node_that_knows_no_part_of_its_own_is_refused(config):
    with pytest.raises(ConfigError, match="start it with --node-config 'partition-id=K num"):
        hosted(20, "f", config)


def test_a_node_says_which_devices_it_hosts():
    said = hosted(20, "f", {"partition-id": 1, "num-partitions": 3})
    assert dict(said) == {"start": 6, "stop": 13, "fingerprint": "f"}
    assert HOSTED.isidentifier()
