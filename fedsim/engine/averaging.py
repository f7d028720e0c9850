"""How is Flower's weighted mean of replies taken, to the bit and on all workers?

Flower multiplies every array of every reply by its weight into a fresh one, adds that to the sum,
and packs the sum into bytes, on one thread, while those that trained stand idle. Here the same
products and sums are taken in the same order on all workers at once (`fedsim.training.mean`), and
left as buffers. Replies whose noise nobody has read get that of their mean in one draw
(`fedsim.training.unread`): it is Flower's mean of what they are when they are read.

Flower's strategies find the function by its name in their own modules, where `means_on` puts this
one meanwhile. Replies of more than one kind of number, or of several records, go to Flower's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy import fedavg, multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedsim.engine.flower import KeptArray, filled, own_rows, seen, unread_of
from fedsim.training.mean import Map, Reply, weighted_sum

_workers: ContextVar[Map | None] = ContextVar("workers", default=None)


@contextmanager
def means_on(map: Map) -> Iterator[None]:
    """Let Flower's strategies take weighted means on these workers meanwhile.

    Args:
      map: of threads; each call is short, holds no lock, and starts nothing on them itself.

    Example:
      >>> from fedsim.engine.flower import quiet
      >>> with means_on(map):
      ...     fedavg.aggregate_arrayrecords is weighted_mean
      True
    """
    # Left in place: without workers it is Flower's own function.
    for module in (fedavg, multikrum):
        module.aggregate_arrayrecords = weighted_mean  # type: ignore[attr-defined]
    token = _workers.set(map)
    try:
        yield
    finally:
        _workers.reset(token)


def weighted_mean(records: list[RecordDict], weighting_metric_name: str) -> ArrayRecord:
    """Flower's `aggregate_arrayrecords`: the same arguments, result and errors.

    Args:
      records: contents of replies, each with a metric record that has the weight.
      weighting_metric_name: the weight's name.
    """
    map, replies = _workers.get(), [_reply(record) for record in records]
    known = [reply for reply in replies if reply is not None]
    weights = [next(iter(r.metric_records.values()))[weighting_metric_name] for r in records]
    # A weight of NumPy's would make a mean of another kind of number than the arrays.
    plain = all(type(weight) in (int, float) for weight in weights)
    total = sum(cast(list[float], weights))
    if map is None or not known or len(known) < len(replies) or not (plain and total):
        return aggregate_arrayrecords(records, weighting_metric_name)
    means = weighted_sum(known, [cast(float, weight) / total for weight in weights], map)
    if means is None:
        return aggregate_arrayrecords(records, weighting_metric_name)
    return filled(ArrayRecord, {name: KeptArray(mean) for name, mean in means.items()})


def _reply(content: RecordDict) -> Reply | None:
    """A reply of a single record of arrays, as far as it was read; else None."""
    if len(content.array_records) != 1:
        return None
    (arrays,) = content.array_records.values()
    return unread_of(arrays) or {n: own_rows(a) or seen(a) for n, a in arrays.items()}
