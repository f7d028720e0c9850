"""How long is an embedding table's gradient for each example, and what is the scaled sum?

A word is the sum of the rows of its pieces, so an example's gradient at row r is the sum of g_t
over the words t with r among their pieces. Its squared norm is sum_{t,s} m_ts <g_t, g_s>, where
m_ts counts the pairs of equal pieces of two words: no (tokens, tokens, width) array is built. The
sum over the batch touches the rows of the batch's own words alone.
"""

import torch
from torch import Tensor

from fedsim.models.tape import Use
from fedsim.training.kernel.rules import Rule, register


def _squared_norms(use: Use, inputs: Tensor, slopes: Tensor) -> Tensor:
    slopes = use.rows.by_example(slopes)
    pairs = _equal_pairs(use.rows.by_example(inputs), slopes.dtype)
    return use.gain**2 * (slopes @ slopes.mT).mul_(pairs).sum((-2, -1))


def _equal_pairs(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., tokens, pieces) -> (..., tokens, tokens): pairs of equal pieces of two words."""
    columns = ids.unbind(-1)
    counts = [(p.unsqueeze(-1) == q.unsqueeze(-2)).to(dtype) for p in columns for q in columns]
    return torch.stack(counts).sum(0) if len(counts) > 1 else counts[0]


def _add(use: Use, inputs: Tensor, scaled: Tensor, totals: list[Tensor]) -> None:
    (table,) = totals
    pieces, width = inputs.shape[-1], table.shape[-1]
    if table.dim() == 3:
        devices, rows, _ = table.shape
        inputs = inputs + rows * torch.arange(devices, device=table.device).view(-1, 1, 1)
        table = table.view(-1, width)
    each = (use.gain * scaled).unsqueeze(-2).expand(*scaled.shape[:-1], pieces, width)
    table.index_add_(0, inputs.flatten(), each.reshape(-1, width))


register("embedding", Rule(squared_norms=_squared_norms, add=_add))
