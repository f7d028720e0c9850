"""Which replies count, and what they say.

Read from the grid before any strategy sees them. A reply counts when it holds arrays of the global
model's names and shapes, finite in the model's precision and of norms up to LARGEST_NORM, and
finite metrics; the others become failures. Whether a reply counts depends on that reply alone.
Replies are handed on in device order, because floating-point sums depend on it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from torch import Tensor

from fedsim.engine.flower import (
    MESSAGE_LOST,
    NODE_UNAVAILABLE,
    REPLY_EXPIRED,
    Content,
    LiveArray,
    own_rows,
    reason,
    records,
    seen,
    unread_of,
)
from fedsim.plan import Failure
from fedsim.privacy.example_spent import REFUSED
from fedsim.training.own_rows import OwnRows

NAMES = ("arrays", "metrics")
"""Names of the two records of a reply."""


LARGEST_NORM = 1e19
"""Norm of an array above which training has exploded: its square is beyond float32. Averaged in,
one such reply would leave nothing of the model."""

DROPPED_OUT, LATE, REFUSAL = 101, 102, 103
"""Codes of error replies that no app made: two simulated faults, and a device that has taken part
as often as its privacy allows."""

NOTHING_HELD_OUT = 104
"""Code of a device's answer that it has nothing to evaluate on, which is no failure."""

STAGES = {
    NODE_UNAVAILABLE: "unavailable",
    MESSAGE_LOST: "unavailable",
    DROPPED_OUT: "dropout",
    LATE: "late",
    REFUSAL: REFUSED,
    REPLY_EXPIRED: "late",
}
"""Where a device failed, by the code of its error reply; "train" for the others."""

SIMULATED = "simulated: "
"""How the error of a failure begins that a simulated fault is to blame for."""

NUMBER = -1
"""What stands for the length of a metric that is no list."""


class SpoiledArray(LiveArray):
    """An array that was fit for use until a simulated fault spoiled it."""


class Collected(NamedTuple):
    """Replies of a round, sorted into good and bad.

    Attributes:
      valid: replies that count, in device order.
      heard: those the strategy is given: all of them, or none where it could not weigh them.
      failures: devices whose reply does not, in device order.
      train_loss: mean training loss over `valid`, weighted by real examples, or None.
    """

    valid: list[Message]
    heard: list[Message]
    failures: tuple[Failure, ...]
    train_loss: float | None


def collect(
    replies: Iterable[Message],
    asked: Iterable[int],
    parameters: Mapping[str, Tensor] | None = None,
    needs: str | None = None,
    map: Callable[..., Iterable] = map,
) -> Collected:
    """Check the replies of one round.

    Where devices evaluate, one that has nothing to evaluate on is neither heard nor a failure.

    Args:
      replies: in any order.
      asked: device ids that were addressed.
      parameters: the global model that was sent, whose names and shapes a reply must have; None
        where only metrics are expected.
      needs: the metric a strategy weighs replies by, a finite number >= 0 in each of them, or None.
        Where these sum to 0 or overflow, the strategy is given none.
      map: applies a function to items, on as many threads as there are.
    """
    sent = None if parameters is None else Sent.of(parameters)
    # Not one by one as they come in: that would take turns with devices that still train.
    came = list(replies)
    judged = map(partial(_failure, sent=sent, needs=needs), came)
    by_device = {r.metadata.src_node_id: (r, f) for r, f in zip(came, judged, strict=True)}
    valid, failures = [], []
    for device in sorted(asked):
        if device not in by_device:
            failures.append(Failure(device, "missing", "no reply"))
            continue
        reply, failure = by_device[device]
        if failure is None:
            reply.content = Content(dict(reply.content))
            valid.append(reply)
        elif sent is not None or not _has_nothing(reply):
            failures.append(failure)
    train_loss = _train_loss(valid)
    heard = _weighable(_alike(valid), needs)
    return Collected(valid, heard, tuple(failures), train_loss)


@dataclass(frozen=True)
class Sent:
    """What devices were sent, by which their replies are judged.

    Attributes:
      arrays: of the global model, by name.
    """

    arrays: dict[str, np.ndarray]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Sent":
        """The global model as arrays."""
        return cls({name: p.detach().cpu().numpy() for name, p in parameters.items()})

    def fault(self, arrays: ArrayRecord) -> str | None:
        """Why arrays, of a device or of an aggregate, cannot stand in for the model's, or None."""
        if set(arrays) != set(self.arrays):
            odd = sorted(set(arrays) ^ set(self.arrays))
            return f"array names differ from the global model's: {', '.join(odd)}"
        # Values beyond the model's range are found by looking at them.
        with np.errstate(over="ignore", invalid="ignore"):
            if self._sound_unread(arrays):
                return None
            for name, array in arrays.items():
                own = own_rows(array)
                if own is not None and np.isfinite(self._square(name, own)):
                    continue
                if fault := _array_fault(name, array, self.arrays[name]):
                    return fault
        return None

    def _sound_unread(self, arrays: ArrayRecord) -> bool:
        """Whether a reply can be averaged whatever the noise will be that nobody has read yet."""
        reply = unread_of(arrays)
        if reply is None:
            return False
        for name, trained in reply.trained.items():
            owed = reply.noise.owed[name]
            noise = float(owed.sum()) * self.arrays[name].size / owed.numel()
            # (a + b)^2 <= 2 a^2 + 2 b^2; noise is never ten times as long as expected.
            if not np.isfinite(2 * self._square(name, trained) + 200 * noise):
                return False
        return True

    def _square(self, name: str, trained: Tensor | OwnRows) -> np.floating | float:
        """At least the squared norm of an array, in its precision; NaN where it is to be read."""
        base = trained if isinstance(trained, Tensor) else trained.received
        sent = self.arrays[name]
        if (tuple(base.shape), base.numpy().dtype) != (sent.shape, sent.dtype):
            return math.nan
        if isinstance(trained, Tensor):
            return np.vdot(trained.numpy(), trained.numpy())
        if base.data_ptr() != sent.ctypes.data:
            return math.nan
        return self._squares[name] + np.vdot(trained.values.numpy(), trained.values.numpy())

    @cached_property
    def _squares(self) -> dict[str, np.floating]:
        """Sums of squares: a finite one has finite terms, and is that of no exploded array."""
        return {name: np.vdot(array, array) for name, array in self.arrays.items()}


def metrics_of(reply: Message) -> MetricRecord:
    """The first metric record of a reply that has one."""
    return next(iter(records(reply.content, MetricRecord).values()))


def _failure(reply: Message, sent: Sent | None, needs: str | None) -> Failure | None:
    """Why a reply does not count, or None."""
    device = reply.metadata.src_node_id
    if reply.has_error():
        stage = STAGES.get(reply.error.code, "train")
        return Failure(device, stage, _line(reply.error.reason or "unknown error"))
    fault = _fault(reply, sent, needs)
    return None if fault is None else Failure(device, "reply", fault)


def _fault(reply: Message, sent: Sent | None, needs: str | None) -> str | None:
    """Why a reply cannot be used, or None."""
    arrays = list(records(reply.content, ArrayRecord).values())
    metrics = list(records(reply.content, MetricRecord).values())
    if sent is None:
        if len(metrics) != 1:
            return f"{len(metrics)} metric records; expected one"
        return _metrics_fault(metrics[0], needs)
    if len(arrays) != 1 or len(metrics) != 1:
        return (
            f"{len(arrays)} array records and {len(metrics)} metric records; expected one of each"
        )
    return sent.fault(arrays[0]) or _metrics_fault(metrics[0], needs)


def _has_nothing(reply: Message) -> bool:
    return reply.has_error() and reply.error.code == NOTHING_HELD_OUT


def _metrics_fault(metrics: MetricRecord, needs: str | None) -> str | None:
    """Why metrics cannot be used, or None."""
    for name, value in metrics.items():
        try:
            finite = all(map(math.isfinite, value if isinstance(value, list) else (value,)))
        except OverflowError:
            return f"metric {name} is an integer beyond float64"
        if not finite:
            return f"metric {name} is {value}"
    weight = 0 if needs is None else metrics.get(needs)
    if not isinstance(weight, int | float) or weight < 0:
        return f"metric {needs} is {weight}; expected a number, 0 or more"
    return None


def _array_fault(name: str, array: Array, sent: np.ndarray) -> str | None:
    """Why an array cannot stand in for the model's, or None."""
    try:
        values = seen(array)
    except Exception as error:  # Bytes from a device: NumPy may raise anything.
        return f"array {name} cannot be read: {reason(error)}"
    if values.shape != sent.shape:
        return f"array {name} has shape {values.shape}; expected {sent.shape}"
    if values.dtype.kind not in "fiu":
        return f"array {name} has dtype {values.dtype}; expected real numbers"
    fault = _values_fault(values.astype(sent.dtype, copy=False))
    if fault is None:
        return None
    return f"{SIMULATED if isinstance(array, SpoiledArray) else ''}array {name} {fault}"


def _values_fault(values: np.ndarray) -> str | None:
    """Why the values of an array cannot be averaged, or None."""
    # A finite sum of squares has finite terms; only where it is not is every entry looked at.
    if math.isfinite(np.vdot(values, values)):
        return None
    if not np.isfinite(values).all():
        return "has values that are not finite"
    norm = float(np.linalg.norm(values.astype(np.float64)))
    return f"has exploded: its norm is {norm:.3g}" if norm > LARGEST_NORM else None


def _alike(replies: list[Message]) -> list[Message]:
    """Give all replies the same record names and metric keys, as Flower demands of a round.

    Metrics that not every device sent (or sent in another shape) are dropped, so that no reply
    decides whether another one counts.
    """
    keys = [_keys(reply) for reply in replies]
    common = set.intersection(*keys) if keys else set()
    for reply, own in zip(replies, keys, strict=True):
        sent = records(reply.content, ArrayRecord)
        names = (*sent, *records(reply.content, MetricRecord))
        if own != common or names != NAMES[-len(names) :]:
            metrics = metrics_of(reply)
            kept = MetricRecord({key: metrics[key] for key, _ in sorted(common)})
            reply.content = Content({NAMES[1]: kept})
            for arrays in sent.values():
                reply.content[NAMES[0]] = arrays
    return replies


def _weighable(replies: list[Message], needs: str | None) -> list[Message]:
    """The replies, or none where their weights sum to 0 or to no finite number."""
    if needs is None:
        return replies
    total = sum((float(metrics_of(r)[needs]) for r in replies), 0.0)  # type: ignore[arg-type]
    return replies if 0 < total < float("inf") else []


def _keys(reply: Message) -> set[tuple[str, int]]:
    """Names of a reply's metrics, with the length of lists (NUMBER for a number)."""
    metrics = metrics_of(reply)
    return {(k, len(v) if isinstance(v, list) else NUMBER) for k, v in metrics.items()}


def _line(text: str) -> str:
    """A text of any number of lines as one."""
    return " ".join(text.split())


def _train_loss(valid: list[Message]) -> float | None:
    total = weight = 0.0
    for reply in valid:
        metrics = metrics_of(reply)
        seen, loss = metrics.get("seen", metrics.get("num-examples")), metrics.get("train_loss")
        if isinstance(seen, int | float) and isinstance(loss, int | float):
            total += seen * loss
            weight += seen
    return total / weight if weight else None
