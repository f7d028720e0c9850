"""Claims about the places where Flower's internals are touched."""

import copy
import logging

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedsim.engine.flower import (
    Content,
    LiveArray,
    UnreadArray,
    quiet,
    reason,
    task_identity,
    to_parameters,
    to_record,
)
from fedsim.training.own_rows import OwnRows

ARRAYS = pytest.mark.parametrize(
    "values",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.float64([[]]),
        np.array(3.5),
        np.array([1, 2], np.int64),
    ],
    ids=["float32", "transposed", "empty", "scalar", "int64"],
)


@ARRAYS
def test_a_live_array_looks_and_serialises_like_flowers_own(values):
    live, own = LiveArray(values), Array(values)
    assert live.data == own.data
    assert (live.dtype, tuple(live.shape), live.stype) == (own.dtype, tuple(own.shape), own.stype)
    assert np.array_equal(live.numpy(), own.numpy())
    assert live.deflate() == own.deflate()
    assert live.object_id == own.object_id
    assert set(live.children) == set(own.children)


def test_a_live_array_arrives_over_the_wire_as_flowers_own():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    live = LiveArray(values)
    arrived = Array.inflate(live.deflate(), live.children)
    assert np.array_equal(arrived.numpy(), values)


def test_a_live_array_copies_nothing():
    values = np.zeros(3, np.float32)
    assert LiveArray(values).numpy() is values
    assert np.array_equal(copy.deepcopy(LiveArray(values)).numpy(), values)


def new_rows():
    received = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    return OwnRows(received, torch.tensor([0, 2]), torch.full((2, 2), 9.0))


def test_a_table_with_new_rows_looks_and_serialises_like_flowers_own():
    own = Array(np.float32([[9, 9], [2, 3], [9, 9]]))
    assert UnreadArray(new_rows()).data == own.data
    assert UnreadArray(new_rows()).object_id == own.object_id
    table = UnreadArray(new_rows())
    assert (table.dtype, tuple(table.shape), table.stype) == (
        own.dtype,
        tuple(own.shape),
        own.stype,
    )
    arrived = Array.inflate(table.deflate(), table.children)
    assert np.array_equal(arrived.numpy(), own.numpy())
    assert np.array_equal(copy.deepcopy(UnreadArray(new_rows())).numpy(), own.numpy())


def test_what_a_reader_writes_into_a_table_stays_there_and_what_was_received_stays_as_it_was():
    rows = new_rows()
    table = UnreadArray(rows)
    assert table.part is rows
    table.numpy()[:] = 5
    assert table.part is None
    assert (table.numpy() == 5).all()
    assert torch.equal(rows.received, new_rows().received)


def test_a_record_shares_the_memory_of_the_parameters():
    parameters = {"b": torch.zeros(2, 3), "a": torch.ones(4, requires_grad=True)}
    record = to_record(parameters)
    assert list(record) == ["b", "a"]
    for name, tensor in parameters.items():
        assert record[name].numpy().ctypes.data == tensor.data_ptr()


def test_parameters_come_back_as_they_went():
    parameters = {"b": torch.randn(2, 3), "a": torch.randn(4), "c": torch.tensor(2.0)}
    for back in (
        to_parameters(to_record(parameters)),
        to_parameters(ArrayRecord({n: Array(p.numpy()) for n, p in parameters.items()})),
    ):
        assert list(back) == list(parameters)
        assert all(torch.equal(back[n], parameters[n]) for n in parameters)


def test_the_model_keeps_its_own_order_and_precision():
    model = {"a": torch.zeros(2), "b": torch.zeros(1)}
    record = ArrayRecord({"b": Array(np.float64([0.1])), "a": Array(np.float64([1, 2]))})
    back = to_parameters(record, like=model)
    assert list(back) == ["a", "b"]
    assert {p.dtype for p in back.values()} == {torch.float32}
    assert back["b"] == torch.tensor([0.1])
    assert to_parameters(record)["a"].dtype == torch.float64


def test_read_only_bytes_become_tensors_of_their_own():
    values = np.zeros(3, np.float32)
    values.flags.writeable = False
    record = ArrayRecord()
    record["a"] = LiveArray(values)
    to_parameters(record)["a"] += 1
    assert not values.any()


def identity():
    return TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("array_records", ArrayRecord()),
        ("metric_records", MetricRecord({"a": 1})),
        ("config_records", ConfigRecord({"a": 1})),
    ],
)
def test_views_of_a_content_are_flowers(kind, record):
    own, flowers = Content({"x": record}), RecordDict({"x": record})
    assert getattr(own, kind) == getattr(flowers, kind) == {"x": record}
    for content in (own, flowers):
        view = getattr(content, kind)
        with pytest.raises(TypeError, match=f"Expected `{type(record).__name__}`"):
            view["y"] = "no record"
        view["y"] = record
        del view["x"]
        assert content == {"y": record}


def test_messages_can_be_made_inside_and_the_identity_is_restored():
    before = identity()
    with task_identity():
        message = Message(RecordDict(), 3, "train")
        assert message.metadata.dst_node_id == 3
        assert None not in identity()
    assert identity() == before


def test_an_identity_that_flower_set_is_kept(monkeypatch):
    for name, value in (("_run_id", 11), ("_node_id", 12), ("_task_id", 13)):
        monkeypatch.setattr(TaskIdentity, name, value)
    with task_identity():
        assert identity() == (11, 12, 13)
    assert identity() == (11, 12, 13)


def test_the_identity_is_restored_after_an_error():
    before = identity()
    with pytest.raises(KeyError), task_identity():
        raise KeyError
    assert identity() == before


class Seen(logging.Handler):
    """Remembers what passed."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def test_quiet_drops_chatter_passes_errors_and_ends():
    logger, seen = logging.getLogger("flwr"), Seen()
    logger.addHandler(seen)
    filters = list(logger.filters)
    try:
        with quiet():
            logger.warning("chatter")
            logger.error("broken")
        logger.warning("afterwards")
    finally:
        logger.removeHandler(seen)
    assert seen.lines == ["broken", "afterwards"]
    assert logger.filters == filters


class NotText(Exception):
    def __str__(self):
        return 3


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("no\nroom"), "ValueError: no"),
        (ValueError("\n\nlate"), "ValueError: late"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (KeyError("a\nb"), "KeyError: 'a\\nb'"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError("half a \ud83d pair"), "ValueError: half a \\ud83d pair"),
        (NotText(), "NotText, whose message cannot be read: TypeError"),
    ],
)
def test_any_error_is_one_line_that_can_be_sent(error, sentence):
    assert reason(error) == sentence
    assert reason(error).encode().decode() == sentence
