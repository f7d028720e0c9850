"""Claims about which replies count: no device takes a round down or poisons the model."""

import gc
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from weakref import ref

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

from fedsim.engine.flower import task_identity, to_parameters, to_record
from fedsim.engine.replies import NOTHING_HELD_OUT, REFUSAL, STAGES, collect
from fedsim.privacy.example_spent import REFUSED
from fedsim.rng import stream
from fedsim.training.own_rows import OwnRows
from fedsim.training.unread import Unread

MODEL = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}


@pytest.fixture(autouse=True)
def in_process():
    with task_identity():
        yield


def arrays(**changes):
    values = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)} | changes
    return ArrayRecord({n: a if isinstance(a, Array) else Array(a) for n, a in values.items()})


def metrics(**changes):
    return MetricRecord({"num-examples": 4, "train_loss": 0.5, "seen": 4.0} | changes)


def sent_back(device, content):
    """A reply of `device`: a record dict, an error, or a dict of records."""
    asked = Message(RecordDict(), device, "train")
    if isinstance(content, dict):
        content = RecordDict(content)
    return Message(content, reply_to=asked)


def good(device, **changes):
    return sent_back(device, {"arrays": arrays(), "metrics": metrics(**changes)})


def only(content, asked=(0,)):
    return collect([sent_back(0, content)], asked, MODEL)


ARRAY = Array(np.ones((2, 3), np.float32))
FAULTS = {
    "error": (Error(code=0, reason="ValueError: no\nmore"), "train", "ValueError: no more"),
    "error without reason": (Error(code=0), "train", "unknown error"),
    "nothing": ({}, "reply", "0 array records and 0 metric records; expected one of each"),
    "no metrics": ({"arrays": arrays()}, "reply", "1 array records and 0 metric records"),
    "two arrays": (
        {"arrays": arrays(), "more": arrays(), "metrics": metrics()},
        "reply",
        "2 array records and 1 metric records",
    ),
    "two metrics": (
        {"arrays": arrays(), "metrics": metrics(), "more": metrics()},
        "reply",
        "1 array records and 2 metric records",
    ),
    "missing array": (
        {"arrays": ArrayRecord({"w": ARRAY}), "metrics": metrics()},
        "reply",
        "array names differ from the global model's: b",
    ),
    "extra array": (
        {"arrays": arrays(z=np.ones(1)), "metrics": metrics()},
        "reply",
        "array names differ from the global model's: z",
    ),
}
VALUES = {
    "shape": (np.ones((3, 2), np.float32), "array w has shape (3, 2); expected (2, 3)"),
    "scalar": (np.array(1, np.float32), "array w has shape (); expected (2, 3)"),
    "nan": (np.full((2, 3), np.nan, np.float32), "array w has values that are not finite"),
    "one inf": (np.float32([[1, 1, 1], [1, np.inf, 1]]), "array w has values that are not finite"),
    "inf and -inf": (np.float32([[np.inf, -np.inf, 1], [1, 1, 1]]), "not finite"),
    "too large for the model": (np.full((2, 3), 1e300), "array w has values that are not finite"),
    "exploded": (np.full((2, 3), 3e38, np.float32), "array w has exploded: its norm is 7.35e+38"),
    "complex": (np.ones((2, 3), np.complex64), "array w has dtype complex64; expected real"),
    "text": (np.full((2, 3), "a"), "array w has dtype <U1; expected real numbers"),
    "garbage": (
        Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=b"garbage"),
        "array w cannot be read: ",
    ),
    "unknown serialisation": (
        Array(dtype="float32", shape=(2, 3), stype="other", data=b""),
        "array w cannot be read: ",
    ),
    "declared shape is a lie": (
        Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=Array(np.ones(5)).data),
        "array w has shape (5,); expected (2, 3)",
    ),
}
METRICS = {
    "nan": ({"train_loss": float("nan")}, "metric train_loss is nan"),
    "inf": ({"seen": float("inf")}, "metric seen is inf"),
    "beyond float64": ({"num-examples": 10**5000}, "metric num-examples is an integer beyond"),
    "nan in a list": ({"losses": [1.0, float("nan")]}, "metric losses is [1.0, nan]"),
}


@pytest.mark.parametrize(("content", "stage", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_reply_of_another_form_is_a_failure(content, stage, sentence):
    found = only(content)
    assert (found.valid, found.train_loss) == ([], None)
    ((device, at, error),) = found.failures
    assert (device, at) == (0, stage) and error.startswith(sentence)


@pytest.mark.parametrize(("values", "sentence"), VALUES.values(), ids=VALUES)
def test_arrays_that_cannot_be_aggregated_are_a_failure(values, sentence):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = only({"arrays": arrays(w=values), "metrics": metrics()})
    ((_, stage, error),) = found.failures
    assert stage == "reply" and sentence in error
    assert "\n" not in error


@pytest.mark.parametrize(("values", "sentence"), METRICS.values(), ids=METRICS)
def test_metrics_that_are_not_finite_are_a_failure(values, sentence):
    found = only({"arrays": arrays(), "metrics": metrics(**values)})
    ((_, stage, error),) = found.failures
    assert stage == "reply" and error.startswith(sentence)


def test_a_silent_device_is_a_failure_and_one_that_was_not_asked_is_nothing():
    found = collect([good(2), good(9)], [2, 5], MODEL)
    assert [r.metadata.src_node_id for r in found.valid] == [2]
    assert found.failures == ((5, "missing", "no reply"),)


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 3), 4e18, np.float32),
        np.float32([[4e18, 4e18, 4e18], [-4e18, -4e18, -4e18]]),
        np.full((2, 3), 6e4, np.float16),
        np.ones((2, 3), np.float64),
        np.ones((2, 3), np.int32),
    ],
    ids=["large", "sums cancel", "half", "double", "integers"],
)
def test_finite_values_of_a_norm_that_float32_can_square_count(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = only({"arrays": arrays(w=values), "metrics": metrics()})
    assert len(found.valid) == 1 and found.failures == ()


HUGE = 1.2e19
"""Finite, and so is its square, but two of these are too large a norm to be averaged."""


@pytest.mark.parametrize(
    "value", [1.0, np.nan, np.inf, 1e18, HUGE, 1e19, 1e20], ids=lambda value: f"{value:g}"
)
@pytest.mark.parametrize("base", [1.0, 1e18, 9e18, np.nan], ids=lambda base: f"on {base:g}")
def test_a_table_of_which_rows_are_new_is_judged_as_if_it_were_whole(base, value):
    received = torch.full((4, 1), base, dtype=torch.float32)
    own = OwnRows(received, torch.tensor([1, 2]), torch.full((2, 1), value))
    verdicts = []
    for trained in (own, own.whole()):
        reply = sent_back(0, {"arrays": to_record({"w": trained}), "metrics": metrics()})
        got = collect([reply], [0], {"w": received})
        verdicts.append([failure.error for failure in got.failures])
    assert verdicts[0] == verdicts[1]


def test_a_table_that_was_not_what_was_sent_is_looked_at_whole():
    own = OwnRows(torch.full((2, 3), np.nan), torch.tensor([0]), torch.ones(1, 3))
    rows = to_record({"w": own, "b": torch.ones(3)})
    got = only({"arrays": rows, "metrics": metrics()})
    assert [failure.stage for failure in got.failures] == ["reply"]


ROWS = torch.zeros(2, 3)
UNREAD = {
    "sound": ({"w": torch.ones(2, 3), "b": torch.ones(3)}, {}, None),
    "a table with new rows": (
        {"w": OwnRows(ROWS, torch.tensor([0]), torch.ones(1, 3)), "b": torch.ones(3)},
        {"w": torch.ones(2, 1)},
        None,
    ),
    "not finite": ({"w": torch.ones(2, 3), "b": torch.full((3,), np.nan)}, {}, "not finite"),
    "a new row that is not finite": (
        {"w": OwnRows(ROWS, torch.tensor([0]), torch.full((1, 3), np.inf)), "b": torch.ones(3)},
        {"w": torch.ones(2, 1)},
        "not finite",
    ),
    "noise beyond the range": (
        {"w": torch.ones(2, 3), "b": torch.ones(3)},
        {"b": torch.tensor(torch.inf)},
        "not finite",
    ),
    "exploded noise": (
        {"w": torch.ones(2, 3), "b": torch.ones(3)},
        {"b": torch.tensor(3e38)},
        "has exploded",
    ),
    "another shape": ({"w": torch.ones(2, 2), "b": torch.ones(3)}, {}, "has shape (2, 2)"),
    "other names": ({"w": torch.ones(2, 3)}, {}, "array names differ"),
}


@pytest.mark.parametrize(("trained", "owed", "fault"), UNREAD.values(), ids=UNREAD)
def test_replies_without_their_noise_are_judged_as_they_will_be_read(trained, owed, fault):
    unread = Unread(
        trained, dict.fromkeys(trained, torch.tensor(1e-3)) | owed, partial(stream, 0, device=3)
    )
    reply = sent_back(0, {"arrays": to_record(unread), "metrics": metrics()})
    got = collect([reply], [0], {"w": ROWS, "b": torch.zeros(3)})
    assert len(got.valid) == (fault is None)
    assert all(fault in failure.error for failure in got.failures)
    assert unread.waiting == (fault is None or "names" in fault)


@pytest.fixture
def hasty():
    """Threads that hand over to each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(4) as pool:
        yield pool.map
    sys.setswitchinterval(interval)


def test_replies_are_judged_on_threads_as_one_after_another(hasty):
    def replies():
        odd = [{"arrays": arrays(b=np.full(3, np.nan, np.float32)), "metrics": metrics()}]
        table = OwnRows(ROWS, torch.tensor([1]), torch.full((1, 3), 2.0))
        rows = {"arrays": to_record({"w": table, "b": torch.ones(3)}), "metrics": metrics()}
        contents = [*odd, rows, FAULTS["error"][0], {"arrays": arrays(), "metrics": metrics()}]
        return [sent_back(device, content) for device, content in enumerate(contents * 8)]

    model = {"w": ROWS, "b": torch.zeros(3)}
    alone, together = (collect(replies(), range(33), model, map=m) for m in (map, hasty))
    assert together.failures == alone.failures
    assert [r.metadata.src_node_id for r in together.valid] == [
        r.metadata.src_node_id for r in alone.valid
    ]
    assert len(together.valid) == 16


def test_replies_that_share_a_record_without_its_noise_all_count(hasty):
    # So much noise that it has to be read before it is known to be sound.
    model = {f"w{place}": torch.ones(3) for place in range(40)}
    owed = dict.fromkeys(model, torch.tensor(1e36))
    for round in range(20):
        record = to_record(Unread(model, owed, partial(stream, 0, round=round, device=3)))
        replies = [sent_back(d, {"arrays": record, "metrics": metrics()}) for d in range(8)]
        assert collect(replies, range(8), model, map=hasty).failures == ()


def test_an_array_that_was_written_to_after_it_was_packed_is_judged_as_it_is():
    for how in (to_parameters, lambda record: {n: a.numpy() for n, a in record.items()}):
        record = to_record({"w": torch.ones(2, 3), "b": torch.ones(3)})
        how(record)["w"][1, 2] = np.nan
        (failure,) = only({"arrays": record, "metrics": metrics()}).failures
        assert "not finite" in failure.error


def test_a_half_precision_model_takes_values_whose_squares_are_beyond_its_range():
    model = {name: p.half() for name, p in MODEL.items()}
    values = np.full((2, 3), 6e4, np.float16)
    reply = sent_back(0, {"arrays": arrays(w=values), "metrics": metrics()})
    assert collect([reply], [0], model).failures == ()


@pytest.mark.parametrize(
    ("code", "stage"),
    [
        *((code, "train") for code in (0, 2, 8, 77)),
        (3, "unavailable"),
        (5, "unavailable"),
        (4, "late"),
    ],
)
def test_flower_s_own_error_codes_say_where_a_device_failed(code, stage):
    assert only(Error(code=code, reason="so it was")).failures == ((0, stage, "so it was"),)


def test_text_beside_the_records_is_allowed():
    note = ConfigRecord({"note": "all well"})
    found = only({"arrays": arrays(), "metrics": metrics(), "notes": note})
    assert len(found.valid) == 1


def test_an_empty_cohort_is_an_ordinary_round():
    assert collect([], [], MODEL) == ([], [], (), None)


@given(st.permutations(range(7)))
def test_replies_and_failures_come_in_device_order_however_they_arrive(order):
    broken = {1, 4}
    replies = [sent_back(d, Error(code=0)) if d in broken else good(d) for d in order]
    found = collect(replies, order, MODEL)
    assert [r.metadata.src_node_id for r in found.valid] == [0, 2, 3, 5, 6]
    assert [f.device for f in found.failures] == [1, 4]


def test_replies_that_were_aggregated_are_freed_at_once():
    heard = collect([good(0), good(1)], (0, 1), MODEL).heard
    left = [ref(reply.content["arrays"]) for reply in heard]
    gc.disable()
    try:
        FedAvg().aggregate_train(1, heard)
        assert all(each() for each in left)
        del heard
        assert not any(each() for each in left)
    finally:
        gc.enable()


def test_train_loss_is_weighted_by_real_examples():
    replies = [good(0, seen=1.0, train_loss=1.0), good(1, seen=3.0, train_loss=5.0)]
    assert collect(replies, [0, 1], MODEL).train_loss == pytest.approx(4.0)


def test_devices_that_saw_no_real_example_leave_the_train_loss_alone():
    null = good(0, seen=0.0, train_loss=0.0)
    assert collect([null, good(1, train_loss=2.0)], [0, 1], MODEL).train_loss == 2.0
    assert collect([null], [0], MODEL).train_loss is None


def test_clients_that_do_not_say_what_they_saw_are_weighted_by_their_examples():
    replies = []
    for device, (count, loss) in enumerate([(1, 1.0), (3, 5.0)]):
        said = MetricRecord({"num-examples": count, "train_loss": loss})
        replies.append(sent_back(device, {"arrays": arrays(), "metrics": said}))
    assert collect(replies, [0, 1], MODEL).train_loss == pytest.approx(4.0)


ODD = {
    "a further metric": {"arrays": arrays(), "metrics": metrics(more=1.0)},
    "a missing metric": {"arrays": arrays(), "metrics": MetricRecord({"num-examples": 4})},
    "other record names": {"weights": arrays(), "figures": metrics()},
    "a list for a number": {"arrays": arrays(), "metrics": metrics(seen=[4.0])},
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_a_device_that_names_things_differently_counts_and_stops_nobody(content):
    """Flower refuses a round whose replies differ in their names."""
    found = collect(
        [sent_back(0, content), good(1), good(2)], [0, 1, 2], MODEL, needs="num-examples"
    )
    assert [r.metadata.src_node_id for r in found.valid] == [0, 1, 2]
    assert found.failures == ()
    new, said = FedAvg().aggregate_train(1, found.valid)
    assert new is not None
    assert set(said or {}) <= {"train_loss", "seen"}


def test_whether_a_reply_counts_depends_on_it_alone():
    odd = sent_back(0, {"weights": arrays(), "metrics": metrics(more=[1.0, 2.0])})
    alone = collect([good(1)], [1], MODEL).valid
    beside = collect([odd, good(1)], [0, 1], MODEL).valid
    assert [r.metadata.src_node_id for r in alone] == [1]
    assert [r.metadata.src_node_id for r in beside] == [0, 1]


def test_a_reply_without_the_weight_a_bare_strategy_needs_is_a_failure():
    lacking = sent_back(0, {"arrays": arrays(), "metrics": MetricRecord({"train_loss": 1.0})})
    found = collect([lacking, good(1)], [0, 1], MODEL, needs="num-examples")
    sentence = "metric num-examples is None; expected a number, 0 or more"
    assert found.failures == ((0, "reply", sentence),)


def test_whatever_counts_aggregates_to_a_finite_model():
    values = [v for v, _ in VALUES.values()] + [np.full((2, 3), 4e18, np.float32)]
    replies = [
        sent_back(d, {"arrays": arrays(w=value), "metrics": metrics()})
        for d, value in enumerate([*values, np.ones((2, 3), np.float64)])
    ]
    found = collect(replies, range(len(replies)), MODEL)
    assert len(found.valid) == 2
    new, _ = FedAvg().aggregate_train(1, found.valid)
    assert all(p.isfinite().all() for p in to_parameters(new, like=MODEL).values())


@pytest.mark.parametrize("weight", [-1, float("nan"), "many"], ids=str)
def test_a_weight_that_no_strategy_can_use_is_a_failure(weight):
    said = MetricRecord({"train_loss": 1.0})
    if not isinstance(weight, str):
        said["num-examples"] = weight
    found = collect(
        [sent_back(0, {"arrays": arrays(), "metrics": said}), good(1)],
        [0, 1],
        MODEL,
        needs="num-examples",
    )
    assert [f.device for f in found.failures] == [0]
    assert [r.metadata.src_node_id for r in found.heard] == [1]


@pytest.mark.parametrize("weights", [(0, 0), (1e308, 1e308)], ids=["zero", "overflow"])
def test_weights_that_cannot_be_divided_by_give_the_strategy_nothing(weights):
    replies = [
        sent_back(d, {"arrays": arrays(), "metrics": metrics(**{"num-examples": w})})
        for d, w in enumerate(weights)
    ]
    found = collect(replies, [0, 1], MODEL, needs="num-examples")
    assert len(found.valid) == 2 and found.heard == []


def test_an_empty_list_is_not_a_number():
    odd = sent_back(0, {"arrays": arrays(), "metrics": metrics(seen=[])})
    found = collect([odd, good(1)], [0, 1], MODEL, needs="num-examples")
    FedAvg().aggregate_train(1, found.heard)
    assert all("seen" not in r.content["metrics"] for r in found.heard)


def test_a_device_without_a_loss_does_not_hide_the_others_losses():
    silent = sent_back(0, {"arrays": arrays(), "metrics": MetricRecord({"num-examples": 4})})
    assert collect([silent, good(1)], [0, 1], MODEL).train_loss is not None


def test_nothing_held_out_is_an_answer_to_evaluation_alone():
    nothing = Error(code=NOTHING_HELD_OUT, reason="nothing")
    found = collect([sent_back(0, nothing), sent_back(1, Error(code=0))], [0, 1, 2])
    assert [f.device for f in found.failures] == [1, 2]
    assert found.valid == []
    assert [f.device for f in only(nothing).failures] == [0]


def test_a_device_that_refuses_is_a_failure_in_evaluation_too_and_nothing_held_out_is_no_refusal():
    found = collect([sent_back(0, Error(code=REFUSAL, reason="spent"))], [0])
    assert [(f.device, f.stage) for f in found.failures] == [(0, REFUSED)]
    assert NOTHING_HELD_OUT not in STAGES


def test_evaluation_replies_need_metrics_alone():
    replies = [
        sent_back(d, {"metrics": MetricRecord({"num-examples": 1, f"only-{d}": 1.0})})
        for d in range(2)
    ]
    found = collect([*replies, sent_back(2, {})], [0, 1, 2], needs="num-examples")
    assert [f.device for f in found.failures] == [2]
    assert FedAvg().aggregate_evaluate(1, found.heard) is not None
