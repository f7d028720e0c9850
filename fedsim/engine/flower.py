"""Where fedsim touches Flower's internals, and nowhere else.

Flower builds a `Message` from a task identity that its runtime sets, and packs arrays into bytes.
In one process there is no runtime and bytes are waste, so this module sets the identity for a
while and offers an `Array` that shares its buffer until somebody asks for bytes.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from types import MethodType
from typing import TypeVar
from weakref import proxy

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.recorddict import _SyncedDict
from flwr.app.message.typeddict import TypedDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from fedsim.training.own_rows import OwnRows, Trained
from fedsim.training.unread import Noised, Unread

Kind = TypeVar("Kind", ArrayRecord, MetricRecord, ConfigRecord)
Filled = TypeVar("Filled", ArrayRecord, MetricRecord, RecordDict)

RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
MESSAGE_LOST = ErrorCode.MESSAGE_UNAVAILABLE
NODE_UNAVAILABLE = ErrorCode.NODE_UNAVAILABLE
REPLY_EXPIRED = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
"""Codes of error replies, as Flower's own runtime gives them."""


@contextmanager
def task_identity() -> Iterator[None]:
    """Let Flower code create messages in this process; an identity already set is kept."""
    names = ("_run_id", "_node_id", "_task_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    for name, value in before.items():
        if value is None:
            setattr(TaskIdentity, name, 0)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def reason(error: BaseException) -> str:
    """An error as one line, for an error reply: its type and the first line of its message.

    The message is a user's code: one that cannot be had, or sent as UTF-8, must not fail a round.

    Example:
      >>> reason(ValueError("no\\nroom"))
      'ValueError: no'
    """
    name = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception as another:
        return f"{name}, whose message cannot be read: {type(another).__name__}"
    said = f"{name}: {lines[0]}" if lines else name
    return said.encode(errors="backslashreplace").decode()


class DeviceGrid(Grid):
    """A Flower grid whose node ids are device ids."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a device."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


class LiveArray(Array):
    """An `Array` over a NumPy buffer; serialised only when `data` is read.

    The buffer is shared with whoever reads `numpy()`, so nobody may write to it.
    """

    def __init__(self, ndarray: np.ndarray) -> None:
        fields = {"dtype": _name(ndarray.dtype), "shape": ndarray.shape, "stype": "numpy.ndarray"}
        self.__dict__.update(fields, _live=ndarray)

    @property
    def live(self) -> np.ndarray:
        """The buffer, to look at and not to write to."""
        return self.__dict__["_live"]

    def numpy(self) -> np.ndarray:
        """The buffer itself."""
        return self.live

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes `Array(ndarray)` would hold."""
        buffer = BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()

    def deflate(self) -> bytes:
        """As an `Array`, whose class name Flower puts on the wire and looks up again."""
        return Array(self.numpy()).deflate()


class KeptArray(LiveArray):
    """An array that others hold too, such as the global model's.

    Whoever reads it is handed a copy to write to, as Flower's own arrays do.
    """

    def numpy(self) -> np.ndarray:
        """A copy of the buffer."""
        return self.live.copy()


class UnreadArray(LiveArray):
    """An array that is put together when it is first read.

    A copy of it is an ordinary array: what is read of both must be the same.
    """

    def __init__(self, part: OwnRows | Noised) -> None:
        shape, name = tuple(part.received.shape), _name(part.received.numpy().dtype)
        self.__dict__.update(dtype=name, shape=shape, stype="numpy.ndarray", _live=None, _part=part)

    @property
    def part(self) -> OwnRows | Noised | None:
        """What it is put together from; None once it was read, because a reader may write to it."""
        return self.__dict__["_part"]

    @property
    def live(self) -> np.ndarray:
        """The whole array; always the same buffer, which a reader of `numpy()` may write to."""
        part = self.part
        if part is not None:
            # Replies are judged on several threads, which may hold the same array.
            whole = part.whole().numpy()
            if self.part is not None:
                self.__dict__.update(_live=whole, _part=None)
        return self.__dict__["_live"]

    def __reduce__(self) -> tuple[type[LiveArray], tuple[np.ndarray]]:
        return LiveArray, (self.numpy(),)


def seen(array: Array) -> np.ndarray:
    """The values of an array, to look at and not to write to: without a copy where there is one."""
    return array.live if isinstance(array, LiveArray) else array.numpy()


def own_rows(array: Array) -> OwnRows | None:
    """The rows that are new in a table which nobody has read yet."""
    part = array.part if isinstance(array, UnreadArray) else None
    return part if isinstance(part, OwnRows) else None


def unread_of(arrays: ArrayRecord) -> Unread | None:
    """The reply whose noise nobody has read yet, if these arrays are all of it, and no others."""
    parts = {n: a.part if isinstance(a, UnreadArray) else None for n, a in arrays.items()}
    first = next(iter(parts.values()), None)
    reply = first.reply if isinstance(first, Noised) else None
    if reply is None or not reply.waiting:
        return None
    return reply if parts == {name: Noised(reply, name) for name in reply.trained} else None


@cache
def _name(dtype: np.dtype) -> str:
    """A dtype's name; NumPy spells it anew each time: most of the cost of a `LiveArray`."""
    return str(dtype)


class Content(RecordDict):
    """A `RecordDict` that is read at once, and freed as soon as nobody holds it.

    Flower's views of the records of one kind set every record anew, with all checks, whenever they
    are read, which a strategy does several times for every reply. And they refer to themselves: all
    that a strategy has looked at, the parameters of a whole cohort, would stay until Python looks
    for such cycles, which may be after the next cohort has replied.
    """

    @property
    def array_records(self) -> TypedDict[str, ArrayRecord]:
        """The array records; changes reach the content."""
        return self._view(ArrayRecord)

    @property
    def metric_records(self) -> TypedDict[str, MetricRecord]:
        """The metric records; changes reach the content."""
        return self._view(MetricRecord)

    @property
    def config_records(self) -> TypedDict[str, ConfigRecord]:
        """The config records; changes reach the content."""
        return self._view(ConfigRecord)

    def _view(self, kind: type[Kind]) -> TypedDict[str, Kind]:
        view = _SyncedDict(self, kind)
        view.__dict__["_data"] = records(self, kind)
        view.__dict__["_check_value_fn"] = MethodType(_SyncedDict.check_value, proxy(view))
        return view


def records(content: RecordDict, kind: type[Kind]) -> dict[str, Kind]:
    """The records of one kind, by name, without Flower's view of them."""
    return {name: each for name, each in content.items() if isinstance(each, kind)}


def to_record(parameters: Trained | Unread) -> ArrayRecord:
    """Parameters as an `ArrayRecord` that shares their memory (CPU tensors)."""
    if isinstance(parameters, Unread):
        return filled(
            ArrayRecord,
            {name: UnreadArray(Noised(parameters, name)) for name in parameters.trained},
        )
    return filled(
        ArrayRecord,
        {
            name: UnreadArray(p) if isinstance(p, OwnRows) else LiveArray(p.detach().cpu().numpy())
            for name, p in parameters.items()
        },
    )


def to_kept_record(parameters: Mapping[str, Tensor]) -> ArrayRecord:
    """The same, for a record whose readers may write to what they read."""
    kept = {name: KeptArray(p.detach().cpu().numpy()) for name, p in parameters.items()}
    return filled(ArrayRecord, kept)


def filled(kind: type[Filled], values: Mapping) -> Filled:
    """A record of arrays or metrics, or a content of records, as they are.

    `ArrayRecord(dict)` would rebuild, and thereby serialise, every array; setting them one at a
    time would spend 20 microseconds each on checks of what is known here.
    """
    record = kind()
    record.__dict__["_data"] |= values
    return record


def to_parameters(
    record: ArrayRecord, like: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """An `ArrayRecord` as tensors, in the order and dtype of `like` where given.

    Flower's adaptive optimizers return float64; the model stays in its own precision.
    """
    arrays = {name: np.asarray(seen(array)) for name, array in record.items()}
    if like is None:
        return {name: _tensor(array) for name, array in arrays.items()}
    return {name: _tensor(arrays[name]).to(tensor.dtype) for name, tensor in like.items()}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Flower's per-round log lines off the screen meanwhile; errors pass."""
    logger = logging.getLogger("flwr")
    drop = logging.Filter()
    drop.filter = lambda record: record.levelno >= logging.ERROR  # type: ignore[method-assign]
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
