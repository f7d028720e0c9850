"""How do the examples of a batch become fewer, each the mean of a group?

`grouped(losses, ...)` turns per-example losses into per-group ones, and shows a tape the layers as
groups see them: the rows of a group are those of all its examples. So whatever reads a tape, such
as the clipping kernel, works on groups as it does on examples, cross terms between the examples of
a group included, and no group's gradient is ever stored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.models.joint import Batch, Parameters
from fedsim.models.tape import Rows, note, tape, taping

Losses = Callable[[Parameters, Batch], Tensor]


def grouped(losses: Losses, group: Tensor, share: Tensor, groups: int) -> Losses:
    """Losses of groups: sums of share x loss over their examples.

    Args:
      losses: per-example losses, (parameters, batch) -> (..., examples).
      group: (..., examples) int64 in [0, groups]; those at `groups` belong to none.
      share: (..., examples) of each in its group, such as one over the group's size; 0 for none.
      groups: how many there are; empty ones have loss 0.

    Returns:
      (parameters, batch) -> (..., groups + 1); the last holds no rows, and is not finite where the
      loss of an example that belongs to no group is not.

    Example:
      >>> each = lambda parameters, batch: batch["x"] * parameters["w"]
      >>> half = torch.tensor([0.5, 0.5, 1.0])
      >>> means = grouped(each, group=torch.tensor([1, 1, 0]), share=half, groups=2)
      >>> means({"w": torch.tensor(2.0)}, {"x": torch.tensor([1.0, 3.0, 5.0])}).tolist()
      [10.0, 4.0, 0.0]
    """

    def of_groups(parameters: Parameters, batch: Batch) -> Tensor:
        if taping():
            with tape() as uses:
                each = losses(parameters, batch)
            members = _members(group, groups)
            for use in uses:
                note(use._replace(rows=_Grouped(use.rows, group, members)))
        else:
            each = losses(parameters, batch)
        sums = each.new_zeros(*each.shape[:-1], groups + 1)
        # 0 x inf is NaN, and is to show in the last loss.
        return sums.scatter_add(-1, group, each * share)

    return of_groups


@dataclass(frozen=True, eq=False)
class _Grouped:
    """Rows of examples as rows of groups.

    Attributes:
      rows: which example each row belongs to.
      group: (..., examples) group of each.
      members: (..., groups + 1, most) examples of each group; `examples` where there are fewer.
    """

    rows: Rows
    group: Tensor
    members: Tensor

    def by_example(self, rows: Tensor) -> Tensor:
        """(..., rows, features) -> (..., groups + 1, most x tokens, features), a padded copy."""
        each = self.rows.by_example(rows)
        *leading, examples, tokens, features = each.shape
        index = self.members.flatten(-2)
        nobody = index == examples
        index = index.masked_fill(nobody, 0)
        if leading:
            index = index[..., None, None].expand(*index.shape, tokens, features)
            picked = each.gather(-3, index)
        else:
            picked = each.index_select(0, index)
        picked.masked_fill_(nobody[..., None, None], 0)
        groups, most = self.members.shape[-2:]
        return picked.view(*leading, groups, most * tokens, features)

    def of_example(self, values: Tensor) -> Tensor:
        """The value of each row's group."""
        return self.rows.of_example(values.gather(-1, self.group))


def _members(group: Tensor, groups: int) -> Tensor:
    """Examples of each group in order, (..., groups + 1, most); the last group shows none."""
    *leading, examples = group.shape
    order = group.argsort(dim=-1, stable=True)
    owner = group.gather(-1, order)
    count = group.new_zeros(*leading, groups + 1).scatter_add(-1, group, torch.ones_like(group))
    first = count.cumsum(-1) - count
    most = int(count[..., :groups].max()) if group.numel() else 0
    rank = torch.arange(examples, device=group.device) - first.gather(-1, owner)
    # One more cell, for those that belong to no group.
    cell = torch.where(owner < groups, owner * most + rank, (groups + 1) * most)
    cells = group.new_full((*leading, (groups + 1) * most + 1), examples)
    cells.scatter_(-1, cell, order)
    return cells[..., :-1].view(*leading, groups + 1, most)
