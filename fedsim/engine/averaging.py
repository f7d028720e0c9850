"""How is Flower's weighted mean of replies taken, to the bit and on all workers?

Flower multiplies every array of every reply by its weight into a fresh one, adds that to the sum,
and packs the sum into bytes, on one thread, while those that trained stand idle. Here the same
products and sums are taken in the same order, piece by piece, so that what is worked on stays in
the cache, on all workers at once, and left as buffers. A table of which devices send few rows is
not put together for each of them: what they were sent is multiplied by their weight, and then the
rows that are new.

Flower's strategies find the function by its name in their own modules, where `means_on` puts this
one meanwhile. Replies of more than one kind of number, or of several records, go to Flower's own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy import fedavg, multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedsim.engine.flower import LiveArray, RowsArray, filled

Map = Callable[..., Iterable[Any]]
"""Applies a function to items, perhaps on several threads; results in the order of the items."""

PIECE = 163_840
"""Entries that are worked on at a time. Fewer are more hand-overs between threads; more leave the
caches of a core."""

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
    means = {name: np.empty_like(each[0].array) for name, each in arrays.items()}
    pieces = [piece for name, each in arrays.items() for piece in _pieces(means[name], each)]
    for _ in map(partial(_mean, shares), pieces):
        pass
    return filled({name: MeanArray(mean) for name, mean in means.items()})


class _Term(NamedTuple):
    """An array of a reply; where `rows` is given, these are `values` instead."""

    array: np.ndarray
    rows: np.ndarray | None = None
    values: np.ndarray | None = None

    @classmethod
    def of(cls, array: Array) -> "_Term":
        own = array.rows if isinstance(array, RowsArray) else None
        return cls(array.numpy()) if own is None else cls(*(part.numpy() for part in own))


class _Piece(NamedTuple):
    """Rows of an array: the mean's, (rows, width), what it is of, and which rows they are."""

    mean: np.ndarray
    terms: Sequence[_Term]
    start: int
    stop: int


def _alike(replies: Sequence[Sequence[ArrayRecord]]) -> dict[str, list[_Term]] | None:
    """The arrays of each name over all replies, or None where these are not all of a kind."""
    if any(len(reply) != 1 for reply in replies) or not replies:
        return None
    each = [{name: _Term.of(array) for name, array in reply[0].items()} for reply in replies]
    first = each[0]
    for terms in each:
        if terms.keys() != first.keys():
            return None
        for name, (array, *_) in terms.items():
            if (
                array.dtype != first[name].array.dtype
                or array.dtype not in (np.float32, np.float64)
                or array.shape != first[name].array.shape
                or not array.flags.c_contiguous
            ):
                return None
    return {name: [terms[name] for terms in each] for name in first}


def _pieces(mean: np.ndarray, terms: Sequence[_Term]) -> Iterator[_Piece]:
    if not mean.size:
        return
    width = mean.shape[-1] if mean.ndim > 1 else 1
    rows = mean.reshape(-1, width)
    flat = [term._replace(array=term.array.reshape(-1, width)) for term in terms]
    step = max(1, PIECE // width)
    for start in range(0, len(rows), step):
        yield _Piece(rows[start : start + step], flat, start, start + step)


def _mean(shares: Sequence[float], piece: _Piece) -> None:
    """Sum up one piece, in the order of the replies."""
    mean, terms, start, stop = piece
    product = np.empty_like(mean)
    for place, (term, share) in enumerate(zip(terms, shares, strict=True)):
        into = product if place else mean
        np.multiply(term.array[start:stop], share, out=into)
        if term.rows is not None and term.values is not None:
            some = slice(*np.searchsorted(term.rows, (start, stop)))
            into[term.rows[some] - start] = term.values[some] * share
        if place:
            mean += product
