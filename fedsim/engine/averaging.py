"""How is Flower's weighted mean of replies taken, to the bit and in a fraction of the time?

Flower multiplies every array of every reply by its weight into a fresh one, adds that to the sum,
and packs the sum into bytes, on one thread, while those that trained stand idle: a tenth of the
time that training takes. Here the same products and sums are taken in the same order, piece by
piece, so that what is worked on stays in the cache, on all workers at once, and left as buffers.

Flower's strategies find the function by its name in their own modules, where `means_on` puts this
one meanwhile. Replies of more than one kind of number, or of several records, go to Flower's own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy import fedavg, multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedsim.engine.flower import LiveArray, filled

Map = Callable[..., Iterable[Any]]
"""Applies a function to items, perhaps on several threads; results in the order of the items."""

PIECE = 65536
"""Entries that are worked on at a time: sum and product fit into the cache of a core together."""

_workers: ContextVar[Map | None] = ContextVar("workers", default=None)


class MeanArray(LiveArray):
    """An array that nobody else holds: whoever reads it is handed a copy to write to, as Flower's
    own arrays do."""

    def numpy(self) -> np.ndarray:
        """A copy of the buffer."""
        return super().numpy().copy()


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
    map, replies = _workers.get(), [list(r.array_records.values()) for r in records]
    arrays = None if map is None else _alike(replies)
    if map is None or arrays is None:
        return aggregate_arrayrecords(records, weighting_metric_name)
    weights = [next(iter(r.metric_records.values()))[weighting_metric_name] for r in records]
    total = sum(cast(list[float], weights))
    shares = [cast(float, weight) / total for weight in weights]
    means = {name: np.empty_like(each[0]) for name, each in arrays.items()}
    pieces = [
        (means[name].reshape(-1)[start : start + PIECE], each, slice(start, start + PIECE))
        for name, each in arrays.items()
        for start in range(0, means[name].size, PIECE)
    ]
    for _ in map(partial(_mean, shares), pieces):
        pass
    return filled({name: MeanArray(mean) for name, mean in means.items()})


def _alike(replies: Sequence[Sequence[ArrayRecord]]) -> dict[str, list[np.ndarray]] | None:
    """The arrays of each name over all replies, or None where these are not all of a kind."""
    if any(len(reply) != 1 for reply in replies) or not replies:
        return None
    each = [{name: array.numpy() for name, array in reply[0].items()} for reply in replies]
    first = each[0]
    for arrays in each:
        if arrays.keys() != first.keys():
            return None
        for name, array in arrays.items():
            if (
                array.dtype != first[name].dtype
                or array.dtype not in (np.float32, np.float64)
                or array.shape != first[name].shape
                or not array.flags.c_contiguous
            ):
                return None
    return {name: [arrays[name] for arrays in each] for name in first}


def _mean(shares: Sequence[float], piece: tuple[np.ndarray, Sequence[np.ndarray], slice]) -> None:
    """Sum up one piece of one array, in the order of the replies."""
    out, arrays, where = piece
    product = np.empty_like(out)
    np.multiply(arrays[0].reshape(-1)[where], shares[0], out=out)
    for array, share in zip(arrays[1:], shares[1:], strict=True):
        np.multiply(array.reshape(-1)[where], share, out=product)
        out += product
