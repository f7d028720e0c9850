"""Claims about weighted means: they are Flower's own, to the bit, on any number of workers."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import fedavg
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.engine import averaging
from fedsim.engine.averaging import means_on, weighted_mean
from fedsim.engine.flower import LiveArray, UnreadArray, filled, to_record
from fedsim.rng import stream
from fedsim.training import mean
from fedsim.training.own_rows import OwnRows
from fedsim.training.unread import Unread

WEIGHT = "num-examples"


def reply(weight, **arrays):
    """The content of a reply."""
    values = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return RecordDict({"arrays": values, "metrics": MetricRecord({WEIGHT: weight})})


def same_bits(ours, flowers):
    """Whether two records hold the same names, kinds of number, shapes and bits."""
    assert list(ours) == list(flowers)
    for name in ours:
        got, wanted = ours[name].numpy(), flowers[name].numpy()
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        assert got.tobytes() == wanted.tobytes()
        assert ours[name].data == flowers[name].data


@given(
    seed=st.integers(0, 2**32),
    weights=st.lists(st.one_of(st.integers(1, 500), st.floats(1e-6, 1e6)), min_size=1, max_size=6),
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), min_size=1, max_size=3),
    dtype=st.sampled_from([np.float32, np.float64, np.float16, np.int64]),
    piece=st.sampled_from([1, 7, 32768]),
    workers=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_means_are_those_of_flower_to_the_bit(seed, weights, shapes, dtype, piece, workers):
    draw = np.random.default_rng(seed)
    replies = [
        reply(
            weight,
            **{
                f"w{i}": np.asarray(draw.standard_normal(shape) * 100).astype(dtype)
                for i, shape in enumerate(shapes)
            },
        )
        for weight in weights
    ]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(workers) as pool:
        patch.setattr(mean, "PIECE", piece)
        with means_on(pool.map):
            ours = fedavg.aggregate_arrayrecords(replies, WEIGHT)
    same_bits(ours, aggregate_arrayrecords(replies, WEIGHT))


@given(
    seed=st.integers(0, 2**32),
    weights=st.lists(st.integers(1, 500), min_size=1, max_size=6),
    table=st.tuples(st.integers(1, 9), st.integers(1, 4)),
    piece=st.sampled_from([1, 7, 32768]),
    workers=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_tables_of_which_rows_are_new_count_as_if_they_were_whole(
    seed, weights, table, piece, workers
):
    draw = np.random.default_rng(seed)
    received = torch.from_numpy(draw.standard_normal(table, np.float32))
    replies, whole = [], []
    for weight in weights:
        rows = np.flatnonzero(draw.random(table[0]) < draw.random())
        values = torch.from_numpy(draw.standard_normal((len(rows), table[1]), np.float32))
        own = OwnRows(received, torch.from_numpy(rows), values)
        kept = LiveArray(own.whole().numpy()) if draw.random() < 0.2 else UnreadArray(own)
        content = reply(weight)
        content["arrays"] = filled(ArrayRecord, {"table": kept})
        replies.append(content)
        whole.append(reply(weight, table=own.whole().numpy()))
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(workers) as pool:
        patch.setattr(mean, "PIECE", piece)
        with means_on(pool.map):
            ours = weighted_mean(replies, WEIGHT)
    same_bits(ours, aggregate_arrayrecords(whole, WEIGHT))


def noised(device, weight):
    """A reply whose noise nobody has read: a table of which a row was trained, and a bias."""
    own = OwnRows(torch.zeros(4, 2), torch.tensor([device]), torch.ones(1, 2))
    owed = {"table": torch.full((4, 1), 0.5), "bias": torch.tensor(2.0)}
    draw = partial(stream, 0, round=1, device=device)
    unread = Unread({"table": own, "bias": torch.ones(3)}, owed, draw)
    content = reply(weight)
    content["arrays"] = to_record(unread)
    return content, unread


@pytest.mark.parametrize(
    "reading", [None, "one array", "bytes", "a copy"], ids=lambda reading: reading or "nothing"
)
def test_a_mean_of_replies_is_flower_s_of_what_they_are_when_they_are_read(reading):
    contents, unread = zip(*(noised(k, weight) for k, weight in enumerate((1, 5, 2))), strict=True)
    table = contents[1]["arrays"]["table"]
    if reading == "one array":
        table.numpy()[0] = 7.0
    elif reading == "bytes":
        assert Array.inflate(table.deflate(), table.children).numpy().shape == (4, 2)
    elif reading == "a copy":
        twin = copy.deepcopy(contents[1])
    with means_on(map):
        ours = weighted_mean(list(contents), WEIGHT)
    assert [each.waiting for each in unread] == [False] * 3
    flowers = aggregate_arrayrecords(list(contents), WEIGHT)
    for name in flowers:
        np.testing.assert_allclose(ours[name].numpy(), flowers[name].numpy(), atol=1e-6)
    if reading == "a copy":
        for name, array in contents[1]["arrays"].items():
            assert np.array_equal(twin["arrays"][name].numpy(), array.numpy())
    if reading == "one array":
        assert (table.numpy()[0] == 7.0).all()


def test_a_reply_of_which_an_array_was_replaced_is_averaged_as_it_is():
    (one, _), (other, _) = noised(0, 1), noised(1, 1)
    one["arrays"]["bias"] = Array(np.full(3, 8.0, np.float32))
    with means_on(map):
        ours = weighted_mean([one, other], WEIGHT)
    flowers = aggregate_arrayrecords([one, other], WEIGHT)
    for name in flowers:
        np.testing.assert_allclose(ours[name].numpy(), flowers[name].numpy(), atol=1e-6)


def test_without_a_mean_of_ours_flower_reads_every_reply():
    contents, unread = zip(*(noised(k, 1) for k in range(2)), strict=True)
    mean = aggregate_arrayrecords(list(contents), WEIGHT)["bias"].numpy()
    read = [each.read()["bias"].numpy() for each in unread]
    np.testing.assert_allclose(mean, np.mean(read, axis=0), atol=1e-6)


ONES = np.ones(3, np.float32)
ODD = {
    "another dtype": [reply(1, w=ONES), reply(2, w=ONES.astype(np.float64))],
    "a transposed array": [reply(1, w=np.ones((2, 3), np.float32)) for _ in range(2)],
    "other names": [reply(1, w=ONES), reply(2, w=ONES, b=ONES)],
    "a weight of NumPy's": [reply(np.float64(1), w=ONES), reply(2, w=ONES * 0.1)],
    "values that are not finite": [reply(1, w=ONES * np.inf), reply(2, w=ONES * -np.inf)],
}


@pytest.mark.parametrize("replies", ODD.values(), ids=ODD)
def test_odd_replies_are_averaged_as_flower_does(replies):
    with means_on(map), np.errstate(invalid="ignore"):
        same_bits(weighted_mean(replies, WEIGHT), aggregate_arrayrecords(replies, WEIGHT))


@pytest.mark.parametrize("replies", [[], [reply(0, w=ONES), reply(0, w=ONES)]])
def test_errors_are_those_of_flower(replies):
    def outcome(function):
        try:
            return dict(function(replies, WEIGHT))
        except Exception as error:
            return type(error)

    with means_on(map):
        assert outcome(weighted_mean) == outcome(aggregate_arrayrecords)


def test_what_is_read_of_a_mean_may_be_written_to_without_changing_it():
    with means_on(map):
        mean = weighted_mean([reply(1, w=ONES), reply(3, w=ONES)], WEIGHT)["w"]
    read = mean.numpy()
    read *= 7
    assert mean.numpy().tolist() == [1.0, 1.0, 1.0]


def test_outside_a_run_flower_does_it_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(averaging, "aggregate_arrayrecords", lambda *given: asked.append(given))
    with means_on(map):
        weighted_mean([reply(1, w=ONES)], WEIGHT)
        assert not asked
    fedavg.aggregate_arrayrecords([reply(1, w=ONES)], WEIGHT)
    assert len(asked) == 1
