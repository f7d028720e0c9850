"""Which replies count, and what they say.

Read from the grid before any strategy sees them. A reply counts when it holds arrays of the global
model's names and shapes, all of them finite, and finite metrics; the others become failures.
Replies are handed on in device order, because floating-point sums depend on it.
"""

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
            failures.append(Failure(device, "train", reply.error.reason or "unknown error"))
        elif fault := _fault(reply, parameters):
            failures.append(Failure(device, "reply", fault))
        else:
            valid.append(reply)
    return Collected(valid, tuple(failures), _train_loss(valid))


def _fault(reply: Message, parameters: Mapping[str, Tensor]) -> str | None:
    """Why a reply cannot be used, or None."""
    arrays = list(reply.content.array_records.values())
    metrics = list(reply.content.metric_records.values())
    if len(arrays) != 1 or len(metrics) != 1:
        return (
            f"{len(arrays)} array records and {len(metrics)} metric records; "
            "expected one of each"
        )
    if set(arrays[0]) != set(parameters):
        odd = sorted(set(arrays[0]) ^ set(parameters))
        return f"array names differ from the global model's: {', '.join(odd)}"
    for name, array in arrays[0].items():
        wanted = tuple(parameters[name].shape)
        if tuple(array.shape) != wanted:
            return f"array {name} has shape {tuple(array.shape)}; expected {wanted}"
        # The sum is finite only if every entry is (or opposite overflows met, which is as bad).
        values = array.numpy()
        if not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
            return f"array {name} has values that are not finite"
    for name, value in metrics[0].items():
        if not np.all(np.isfinite(value)):
            return f"metric {name} is {value}"
    return None


def _train_loss(valid: list[Message]) -> float | None:
    total = weight = 0.0
    for reply in valid:
        metrics = next(iter(reply.content.metric_records.values()))
        seen = float(metrics.get("seen", metrics.get("num-examples", 0)))  # type: ignore[arg-type]
        total += seen * float(metrics.get("train_loss", 0.0))  # type: ignore[arg-type]
        weight += seen
    return total / weight if weight else None
