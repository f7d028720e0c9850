"""The weighted mean of what devices trained: in the order of the devices, on any number of threads.

Every product and sum is that of `sum_k share_k x array_k` taken one after another in the arrays'
own precision, so that the result does not depend on how the work is cut. It is cut into pieces, so
that what is worked on stays in the cache. A table of which devices have few rows is not put
together for each of them: what all were sent is multiplied by a device's share, and then the rows
that are new.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fedsim.training.own_rows import OwnRows
from fedsim.training.unread import Unread, mean_noise

Map = Callable[..., Iterable[Any]]
"""Applies a function to items, perhaps on several threads; results in the order of the items."""

PIECE = 163_840
"""Entries that are worked on at a time. Fewer are more hand-overs between threads; more leave the
caches of a core."""


Part = np.ndarray | Tensor | OwnRows
"""One parameter of a reply."""

Reply = Mapping[str, Part] | Unread
"""What a device sent back."""


def weighted_sum(
    replies: Sequence[Reply], shares: Sequence[float], map: Map = map
) -> dict[str, np.ndarray] | None:
    """sum_k share_k x reply_k of every name.

    Replies whose noise nobody has read get that of the sum, in one draw.

    Args:
      replies: at least one.
      shares: weight of each.
      map: on which the work is done; each call is short, and holds no lock.

    Returns:
      None where the replies do not all have arrays of the same names, shapes and kinds of number,
      float32 or float64; nothing is drawn then.

    Example:
      >>> one, other = ({"w": np.full(2, value)} for value in (1.0, 4.0))
      >>> weighted_sum([one, other], [0.5, 0.25])["w"].tolist()
      [1.5, 1.5]
    """
    terms = [_terms(reply) for reply in replies]
    if not _alike(terms):
        return None
    sums = {name: np.empty_like(term.array) for name, term in terms[0].items()}
    pieces = [
        piece
        for name, own in sums.items()
        for piece in _pieces(own, [each[name] for each in terms])
    ]
    for _ in map(partial(_sum, shares), pieces):
        pass
    # Nothing of a reply that weighs nothing is in the sum.
    waiting = [
        (reply, share)
        for reply, share in zip(replies, shares, strict=True)
        if share and isinstance(reply, Unread) and reply.waiting
    ]
    for name, noise in (mean_noise(waiting) if waiting else {}).items():
        sums[name] += noise.numpy()
    return sums


class _Term(NamedTuple):
    """An array, of which some `rows` are `values` instead, if any."""

    array: np.ndarray
    rows: np.ndarray | None = None
    values: np.ndarray | None = None

    @classmethod
    def of(cls, part: Part) -> "_Term":
        if isinstance(part, OwnRows):
            return cls(*(own.numpy() for own in part))
        return cls(part.numpy() if isinstance(part, Tensor) else part)


def _alike(replies: Sequence[Mapping[str, _Term]]) -> bool:
    """Whether sums can be taken entry by entry."""
    first = replies[0]
    return all(
        terms.keys() == first.keys()
        and all(
            term.array.dtype == first[name].array.dtype
            and term.array.dtype in (np.float32, np.float64)
            and term.array.shape == first[name].array.shape
            and term.array.flags.c_contiguous
            for name, term in terms.items()
        )
        for terms in replies
    )


def _terms(reply: Reply) -> dict[str, _Term]:
    """What is summed up of a reply, without the noise that nobody has read."""
    parts: Mapping[str, Part]
    if isinstance(reply, Unread):
        parts = reply.trained if reply.waiting else reply.read()
    else:
        parts = reply
    return {name: _Term.of(part) for name, part in parts.items()}


class _Piece(NamedTuple):
    """Rows of an array: the sum's, (rows, width), what it is of, and which rows they are."""

    sum: np.ndarray
    terms: Sequence[_Term]
    start: int
    stop: int


def _pieces(whole: np.ndarray, terms: Sequence[_Term]) -> Iterator[_Piece]:
    if not whole.size:
        return
    width = whole.shape[-1] if whole.ndim > 1 else 1
    rows = whole.reshape(-1, width)
    flat = [term._replace(array=term.array.reshape(-1, width)) for term in terms]
    step = max(1, PIECE // width)
    for start in range(0, len(rows), step):
        yield _Piece(rows[start : start + step], flat, start, start + step)


def _sum(shares: Sequence[float], piece: _Piece) -> None:
    """One piece, in the order of the replies."""
    into, terms, start, stop = piece
    product = np.empty_like(into)
    for place, (term, share) in enumerate(zip(terms, shares, strict=True)):
        out = product if place else into
        np.multiply(term.array[start:stop], share, out=out)
        if term.rows is not None and term.values is not None:
            some = slice(*np.searchsorted(term.rows, (start, stop)))
            out[term.rows[some] - start] = term.values[some] * share
        if place:
            into += product
