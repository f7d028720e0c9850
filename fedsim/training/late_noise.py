"""Noise of rows that no batch has read for some steps, in one draw.

Nothing follows from where a row of a table is that no batch reads. So the noise of several steps, a
sum of independent draws, may be one draw, before the row is read again or sent: what comes out has
the same distribution, and with it every guarantee (Lim et al., "LazyDP", ASPLOS 2024).
`DPSGD.step` adds up variances where a state has `late`: name of a table -> (devices, rows of the
table) zeros at the start. What is owed at the end is that of the reply (`fedsim.training.unread`).
"""

from torch import Tensor

from fedsim.training.gaussian import resumed
from fedsim.training.procedures import State


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
