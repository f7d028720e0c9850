"""How long is an embedding table's gradient for each example, and what is the scaled sum?

A word is the sum of the rows of its pieces, so an example's gradient at row r is the sum of g_t
over the words t with r among their pieces. Its squared norm is sum_{t,s} m_ts <g_t, g_s>, where
m_ts counts the pairs of equal pieces of two words: no (tokens, tokens, width) array is built. The
sum over the batch touches the rows of the batch's own words alone.
"""

import torch
from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.linear import gram, gram_squares
from fedsim.training.kernel.rules import Measured, Rule, lift, of_rows, register


def measure(use: Use, ids: Tensor, slopes: Tensor) -> Measured:
    """Parameter: the table, (..., table rows, width); `ids` are (..., rows, pieces)."""
    words, g = use.rows.by_example(ids), use.rows.by_example(slopes)
    pairs = _equal_pairs(words, slopes.dtype)
    # One row may get what every piece of every word adds.
    share = lift(use, g.shape[-1], g, pieces=words.shape[-1])
    squares = gram_squares(gram(g), pairs, share)
    return Measured(use.gain**2 * squares, (slopes,))


def add(use: Use, values: tuple[Tensor, ...], factors: Tensor, totals: list[Tensor]) -> None:
    """Adds the scaled gradients to the rows of the batch's words."""
    (table,), (slopes,), ids = totals, values, use.inputs
    if table.dim() == 3:
        devices, each, _ = table.shape
        ids = ids + each * torch.arange(devices, device=table.device).view(-1, 1, 1)
    scaled = slopes * (use.gain * of_rows(use.rows, factors, slopes))
    words, rows = scaled.flatten(0, -2), table.flatten(0, -2)
    # Piece by piece, as the rows of a word's pieces get the same.
    for piece in ids.unbind(-1):
        rows.index_add_(0, piece.flatten(), words)


def _equal_pairs(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., tokens, pieces) -> (..., tokens, tokens): pairs of equal pieces of two words."""
    columns = ids.unbind(-1)
    equal = (p.unsqueeze(-1) == q.unsqueeze(-2) for p in columns for q in columns)
    # Counts as small as they can be: these are as many as all pairs of words.
    kind = torch.uint8 if len(columns) ** 2 < 256 else torch.int32
    count = next(equal).to(kind)
    for each in equal:
        count += each.view(torch.uint8)
    return count.to(dtype)


register("embedding", Rule(measure, add))
