"""Devices on threads behind Flower's grid: every message gets one reply, whatever happens."""

import gc
import logging
import threading
import time
from bdb import BdbQuit

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engine.flower import task_identity
from fedsim.engine.local import LocalGrid


@pytest.fixture(autouse=True)
def identity():
    with task_identity():
        yield


def echoing() -> ClientApp:
    """Replies with its device, its partition and how often it was asked before."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        asked = int(context.state.config_records.get("n", {"asked": 0})["asked"])
        if context.node_id == 3:
            raise ValueError("no\nroom")
        context.state["n"] = ConfigRecord({"asked": asked + 1})
        figures = {"device": context.node_id, "asked": asked, "threads": torch.get_num_threads()}
        figures["partition"] = int(context.node_config["partition-id"])
        return Message(RecordDict({"metrics": MetricRecord(figures)}), reply_to=message)

    return app


def messages(*devices: int) -> list[Message]:
    return [Message(RecordDict(), device, "train") for device in devices]


def said(reply: Message, name: str = "device") -> int:
    return reply.content["metrics"][name]


@pytest.fixture(params=[0, 1, 3], ids=lambda workers: f"{workers} workers")
def grid(request):
    with LocalGrid(echoing(), devices=6, workers=request.param) as opened:
        yield opened


def test_nodes_are_devices(grid):
    assert list(grid.get_node_ids()) == [0, 1, 2, 3, 4, 5]


def test_a_reply_can_be_read_while_other_devices_still_train():
    app, read = ClientApp(), threading.Event()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        in_time = context.node_id == 0 or read.wait(timeout=20)
        return Message(
            RecordDict({"metrics": MetricRecord({"in_time": int(in_time)})}), reply_to=message
        )

    with LocalGrid(app, devices=2, workers=2) as grid:
        replies = iter(grid.send_and_receive(messages(0, 1)))
        assert next(replies).metadata.src_node_id == 0
        read.set()
        assert said(next(replies), "in_time") == 1


def test_every_message_gets_its_own_devices_reply(grid):
    replies = list(grid.send_and_receive(messages(4, 0, 2)))
    assert sorted(reply.metadata.src_node_id for reply in replies) == [0, 2, 4]
    assert all(said(r) == said(r, "partition") == r.metadata.src_node_id for r in replies)


def test_no_messages_no_replies(grid):
    assert list(grid.send_and_receive([])) == []


def test_a_device_that_raises_replies_with_an_error_of_one_line(grid):
    replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(messages(1, 3))}
    assert said(replies[1]) == 1
    assert replies[3].has_error()
    assert replies[3].error.reason == "ValueError: no"


def test_the_first_error_of_each_kind_shows_its_traceback(grid, caplog):
    for _ in range(2):
        list(grid.send_and_receive(messages(3, 3)))
    (told,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "device 3 failed" in caplog.text
    assert told.exc_info is not None
    assert 'raise ValueError("no\\nroom")' in caplog.text


def test_errors_of_another_type_or_place_are_of_another_kind(caplog):
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id == 0:
            raise ValueError("here")
        if context.node_id == 1:
            raise ValueError("there")
        raise (KeyError if context.node_id == 2 else TypeError)("or so")

    with LocalGrid(app, devices=4, workers=0) as grid:
        list(grid.send_and_receive(messages(0, 1, 2, 3, 0, 1, 2, 3)))
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [r.args for r in told] == [(0,), (1,), (2,), (3,)]


def test_inline_devices_run_in_the_calling_thread_so_that_a_debugger_stops_in_them(caplog):
    app, threads = ClientApp(), set()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        threads.add(threading.get_ident())
        raise RuntimeError("look here")

    with LocalGrid(app, devices=1, workers=0) as grid:
        list(grid.send_and_receive(messages(0)))
    assert threads == {record.thread for record in caplog.records} == {threading.get_ident()}
    assert 'raise RuntimeError("look here")' in caplog.text


def test_a_device_keeps_its_state_between_messages(grid):
    for asked in (0, 1, 2):
        (reply,) = grid.send_and_receive(messages(1))
        assert said(reply, "asked") == asked
    (other,) = grid.send_and_receive(messages(2))
    assert said(other, "asked") == 0


def stateful(behave) -> ClientApp:
    """Replies with the number it kept; `behave(round, context)` may raise or change the state."""
    app, rounds = ClientApp(), iter(range(1, 100))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        kept = int(context.state.config_records.get("n", {"kept": 0})["kept"])
        if context.state:
            context.state["n"]["kept"] = kept + 1
        else:
            context.state["n"] = ConfigRecord({"kept": kept + 1})
        behave(next(rounds), context)
        return Message(RecordDict({"metrics": MetricRecord({"kept": kept})}), reply_to=message)

    return app


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_device_that_raises_keeps_the_state_from_before(failing, workers):
    def behave(round: int, context: Context) -> None:
        if round == failing:
            raise ValueError("after the state has changed")

    with LocalGrid(stateful(behave), devices=1, workers=workers) as grid:
        replies = [reply for _ in range(4) for reply in grid.send_and_receive(messages(0))]
    assert [said(r, "kept") for r in replies if not r.has_error()] == [0, 1, 2]


def test_a_device_that_empties_its_state_has_none_the_next_time():
    def behave(round: int, context: Context) -> None:
        if round == 2:
            context.state = RecordDict()

    with LocalGrid(stateful(behave), devices=1, workers=0) as grid:
        replies = [reply for _ in range(4) for reply in grid.send_and_receive(messages(0))]
    assert [said(r, "kept") for r in replies] == [0, 1, 0, 1]


def test_a_snapshot_of_what_devices_keep_is_not_changed_by_later_rounds():
    with LocalGrid(stateful(lambda round, context: None), devices=1, workers=0) as grid:
        list(grid.send_and_receive(messages(0)))
        before = grid.state_dict()
        list(grid.send_and_receive(messages(0)))
    assert before["devices"][0]["n"]["kept"] == 1


def raising(error: BaseException) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise error

    return app


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_whose_message_cannot_be_had_is_a_failure_like_any_other():
    with LocalGrid(raising(Unspeakable()), devices=1, workers=0) as grid:
        (reply,) = grid.send_and_receive(messages(0))
    assert reply.error.reason == "Unspeakable, whose message cannot be read: RuntimeError"


@pytest.mark.parametrize("workers", [0, 2])
def test_leaving_a_debugger_leaves_the_run(workers):
    with (
        LocalGrid(raising(BdbQuit()), devices=1, workers=workers) as grid,
        pytest.raises(BdbQuit),
    ):
        list(grid.send_and_receive(messages(0)))


def test_exit_leaves_the_run_from_the_calling_thread_alone():
    with LocalGrid(raising(SystemExit(3)), devices=1, workers=1) as grid:
        (reply,) = grid.send_and_receive(messages(0))
        assert reply.error.reason == "SystemExit: 3"
    with (
        LocalGrid(raising(SystemExit(3)), devices=1, workers=0) as grid,
        pytest.raises(SystemExit),
    ):
        list(grid.send_and_receive(messages(0)))


def test_pushed_messages_can_be_pulled_once(grid):
    ids = list(grid.push_messages(messages(0, 5)))
    replies, deadline = [], time.monotonic() + 10
    while len(replies) < 2 and time.monotonic() < deadline:
        replies += grid.pull_messages(ids)
    assert sorted(said(reply) for reply in replies) == [0, 5]
    assert list(grid.pull_messages(ids)) == []


def test_results_of_map_come_in_the_order_of_the_items(grid):
    def slow_first(item):
        time.sleep(0.02 * (3 - item))
        return item * item

    assert list(grid.map(slow_first, range(4))) == [0, 1, 4, 9]


def test_each_kernel_runs_on_one_thread_and_the_setting_is_restored(grid):
    (reply,) = grid.send_and_receive(messages(1))
    assert said(reply, "threads") == 1


def test_the_number_of_torch_threads_is_restored():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with LocalGrid(echoing(), devices=1, workers=1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_train_devices_at_the_same_time():
    app, meeting = ClientApp(), threading.Barrier(2, timeout=10)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        meeting.wait()
        return Message(RecordDict(), reply_to=message)

    with LocalGrid(app, devices=2, workers=2) as grid:
        assert not any(reply.has_error() for reply in grid.send_and_receive(messages(0, 1)))


def test_there_is_no_registered_run(grid):
    with pytest.raises(RuntimeError, match="no registered Flower run"):
        _ = grid.run


def test_what_was_there_before_is_not_searched_for_garbage_meanwhile():
    assert gc.get_freeze_count() == 0
    with LocalGrid(ClientApp(), devices=1, workers=0):
        held = gc.get_freeze_count()
        with LocalGrid(ClientApp(), devices=1, workers=0):
            pass
        assert gc.get_freeze_count() == held > 1000
    assert gc.get_freeze_count() == 0
