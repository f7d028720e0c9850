"""Noise of a step that may come later: how much of it is owed, and when is it paid?

Nothing follows from where a row of a table is that no batch reads. So the noise of several steps, a
sum of independent draws, may be one draw, before the row is read again or sent: what comes out has
the same distribution, and with it every guarantee (Lim et al., "LazyDP", ASPLOS 2024).
`DPSGD.step` adds up variances where a state has `late`: name of a table -> (devices, rows of the
table) zeros at the start.
"""

import torch
from torch import Tensor

from fedsim.training.gaussian import BLOCK, resumed
from fedsim.training.procedures import State
from fedsim.training.sums import over, sum_type


def settle(state: State, name: str, rows: Tensor) -> None:
    """Give rows of a table the noise of the steps since they were last read, in one draw.

    Args:
      state: its table is changed in place once a step with noise has been taken.
      name: of the table.
      rows: (n,) which, each once, of (devices x rows).
    """
    if not int(state["step"]) or "noise" not in state:
        return
    table, variance = state["parameters"][name], state["late"][name].view(-1)
    drawn = table.new_empty(len(rows), table.shape[-1])
    source = resumed(state["noise"], table.device)
    source.fill(drawn, 1.0)
    state["noise"] = source.state
    drawn.mul_(variance[rows].sqrt_().to(drawn.dtype).unsqueeze(-1))
    table.view(-1, table.shape[-1]).index_add_(0, rows, drawn)
    variance[rows] = 0.0


def unread(state: State, variance: Tensor, received: Tensor) -> Tensor:
    """Rows that no batch has read, after all steps: as `settle`, a whole table at once.

    Args:
      state: after the steps; its noise goes on from here.
      variance: (devices,) of the noise of each, as `late` has it of a row that is not read.
      received: (rows, width) as they were received.

    Returns:
      (devices, rows, width).
    """
    shape = (*variance.shape, *received.shape)
    drawn = received.new_empty(shape, dtype=sum_type(received))
    if "noise" not in state:
        return drawn.copy_(received)
    source = resumed(state["noise"], variance.device)
    base = received.to(drawn.dtype)
    if variance.device.type == "cpu":
        # Block by block: numbers are still in the caches when the rows are added to them.
        blocks = base.view(-1).split(BLOCK)
        for own, deviation in zip(drawn, variance.sqrt().tolist(), strict=True):
            for numbers, rows in zip(own.view(-1).split(BLOCK), blocks, strict=True):
                source.fill(numbers, deviation)
                numbers.add_(rows)
    else:
        source.fill(drawn, 1.0)
        torch.addcmul(base, drawn, over(variance.sqrt().to(drawn.dtype), drawn), out=drawn)
    state["noise"] = source.state
    return drawn.to(received.dtype)
