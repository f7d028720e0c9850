"""Which replies count, and what they say.

Read from the grid before any strategy sees them. A reply counts when it holds arrays of the global
model's names and shapes, finite in the model's precision, and finite metrics under the same names
as the other replies'; the others become failures. Replies are handed on in device order, because
floating-point sums depend on it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flwr.app import Message
from torch import Tensor

from fedsim.plan import Failure


class Collected(NamedTuple):
    """Replies of a round, sorted into good and bad.

    Attributes:
      valid: replies that count, in device order.
      failures: devices whose reply does not, in device order.
      train_loss: mean training loss over `valid`, weighted by real examples, or None.
    """

    valid: list[Message]
    failures: tuple[Failure, ...]
    train_loss: float | None


def collect(
    replies: Iterable[Message], asked: Iterable[int], parameters: Mapping[str, Tensor]
) -> Collected:
    """Check the replies of one round.

    Args:
      replies: in any order.
      asked: device ids that were addressed.
      parameters: the global model that was sent.
    """
    by_device = {reply.metadata.src_node_id: reply for reply in replies}
    valid, failures = [], []
    for device in sorted(asked):
        reply = by_device.get(device)
        if reply is None:
            failures.append(Failure(device, "missing", "no reply"))
        elif reply.has_error():
            failures.append(Failure(device, "train", _line(reply.error.reason or "unknown error")))
        elif fault := _fault(reply, parameters):
            failures.append(Failure(device, "reply", fault))
        else:
            valid.append(reply)
    valid, odd = _alike(valid)
    return Collected(valid, tuple(sorted(failures + odd)), _train_loss(valid))


def _fault(reply: Message, parameters: Mapping[str, Tensor]) -> str | None:
    """Why a reply cannot be used, or None."""
    arrays = list(reply.content.array_records.values())
    metrics = list(reply.content.metric_records.values())
    if len(arrays) != 1 or len(metrics) != 1:
        return (
            f"{len(arrays)} array records and {len(metrics)} metric records; expected one of each"
        )
    if set(arrays[0]) != set(parameters):
        odd = sorted(set(arrays[0]) ^ set(parameters))
        return f"array names differ from the global model's: {', '.join(odd)}"
    for name, array in arrays[0].items():
        try:
            values = array.numpy()
        except Exception as error:  # Bytes from a device: NumPy may raise anything.
            return _line(f"array {name} cannot be read: {type(error).__name__}: {error}")
        if fault := _array_fault(values, parameters[name]):
            return f"array {name} {fault}"
    for name, value in metrics[0].items():
        if not np.isfinite(np.asarray(value, np.float64)).all():
            return f"metric {name} is {value}"
    return None


def _array_fault(values: np.ndarray, model: Tensor) -> str | None:
    """Why an array cannot stand in for the model's, or None."""
    if values.shape != tuple(model.shape):
        return f"has shape {values.shape}; expected {tuple(model.shape)}"
    if values.dtype.kind not in "fiu":
        return f"has dtype {values.dtype}; expected real numbers"
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(model.detach().cpu().numpy().dtype, copy=False)
        # A finite sum has finite terms; only where it is not is every entry looked at.
        if not np.isfinite(values.sum()) and not np.isfinite(values).all():
            return "has values that are not finite"
    return None


def _alike(replies: list[Message]) -> tuple[list[Message], list[Failure]]:
    """Replies with the most common record names and metric keys, and the others as failures.

    Flower refuses a whole round whose replies differ in them. The lowest device decides a tie.
    """
    layouts = [_layout(reply) for reply in replies]
    if len(set(layouts)) <= 1:
        return replies, []
    usual = Counter(layouts).most_common(1)[0][0]
    valid, odd = [], []
    for reply, layout in zip(replies, layouts, strict=True):
        if layout == usual:
            valid.append(reply)
        else:
            differing = ", ".join(sorted(set(layout) ^ set(usual)))
            fault = f"records or metrics differ from the other devices': {differing}"
            odd.append(Failure(reply.metadata.src_node_id, "reply", fault))
    return valid, odd


def _layout(reply: Message) -> tuple[str, ...]:
    """Names of the records and metrics of a reply, sorted; lists with their lengths."""
    ((name, metrics),) = reply.content.metric_records.items()
    keys = (f"{k}[{len(v)}]" if isinstance(v, list) else k for k, v in metrics.items())
    return (f"record {next(iter(reply.content.array_records))}", f"record {name}", *sorted(keys))


def _line(text: str) -> str:
    """A text of any number of lines as one."""
    return " ".join(text.split())


def _train_loss(valid: list[Message]) -> float | None:
    total = weight = 0.0
    for reply in valid:
        metrics = next(iter(reply.content.metric_records.values()))
        seen = float(metrics.get("seen", metrics.get("num-examples", 0)))  # type: ignore[arg-type]
        total += seen * float(metrics.get("train_loss", 0.0))  # type: ignore[arg-type]
        weight += seen
    return total / weight if weight else None
