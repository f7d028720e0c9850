"""How are several devices trained at once, each with its own weights, batches and streams?

Devices become one stack and run through the same three functions of a local procedure as one device
alone. Those with the most steps come first: a device that has taken its last step leaves at the
end of the stack, so that nobody is trained for longer than they would be alone. Results equal
those of `LocalTrainer.train` up to rounding; noise is one draw a step for the whole stack, for rows
of the table one before a step that reads them, and equal to it in distribution. That of the last
step, and what rows of the table have not had by then, replies owe (`fedsim.training.unread`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import Parameters
from fedsim.models.packing import sent
from fedsim.population.examples import Examples
from fedsim.rng import stream
from fedsim.training.dpsgd import DPSGD
from fedsim.training.kernel import clipped_gradient
from fedsim.training.own_rows import OwnRows
from fedsim.training.procedures import LocalProcedure, State
from fedsim.training.stacking import StackedBatches, copies, on, part
from fedsim.training.trainer import LocalResult, LocalTrainer
from fedsim.training.unread import Unread

HERE = torch.device("cpu")


def in_turn(trainer: LocalTrainer, devices: Sequence[int], period: int) -> list[int]:
    """Devices in an order in which neighbours have about as much to do, those with most first.

    Args:
      trainer: says how many steps they take.
      devices: ids, in any order.
      period: from 0.
    """
    activity = trainer.population.activity(period)
    held = {device: int(activity[device]) for device in devices}
    return sorted(held, key=lambda d: (-trainer.steps(held[d]), -held[d], d))


def train_together(
    trainer: LocalTrainer,
    parameters: Parameters,
    devices: Sequence[int],
    *,
    period: int,
    round: int,
    proximal_mu: float | None = None,
    where: torch.device = HERE,
) -> list[LocalResult]:
    """Train devices as one stack.

    Args:
      trainer: what all of them do.
      parameters: the global model.
      devices: ids, each once; those with more steps before those with fewer (`in_turn`).
      period: from 0.
      round: from 1.
      proximal_mu: as in `LocalTrainer.train`.
      where: the torch device that computes; replies are in ordinary memory.

    Returns:
      What `LocalTrainer.train` returns for each, in the same order.
    """
    procedure = trainer.procedure(trainer.proximal_mu if proximal_mu is None else proximal_mu)
    held = [trainer.population.held(device, period, trainer.seed) for device in devices]
    busy = sum(trainer.steps(len(own)) > 0 for own in held)
    idle = [LocalResult(parameters, 0, 0.0, 0.0)] * (len(devices) - busy)
    if not busy:
        return idle
    late = _noised_late(procedure, parameters)
    name = trainer.model.lookup if late else trainer.own_table(procedure)
    own, used, words = _own_rows(name, parameters, held[:busy], where)
    streams = [stream(trainer.seed, "example-noise", round, device) for device in devices[:busy]]
    plans = [
        list(trainer.drawn(len(examples), device=device, round=round))
        for device, examples in zip(devices, own, strict=False)
    ]
    together = StackedBatches(own)
    batches = [
        together.batch(*zip(*(plan[step] for plan in plans if step < len(plan)), strict=True))
        for step in range(len(plans[0]))
    ]
    shared = {name: p for name, p in parameters.items() if name not in words}
    stack = copies(shared, busy, where) | words
    state = procedure.start({name: stack[name] for name in parameters}, streams)
    # A private step that meets nobody's example leaves them as they are.
    state |= {name: state[name].to(where).expand(busy) for name in ("loss", "seen")}
    if late:
        # Variances may be too small for float32 where deviations are not.
        nothing = partial(torch.zeros, dtype=torch.float64, device=where)
        state["owed"] = nothing(busy)
        state["late"] = {name: nothing(own.shape[:2]) for name, own in words.items()}
        for batch in batches if words else ():
            batch["reads"] = _reads(batch["token_ids"], max(map(len, used)) + 1)
    still = [len(batch["size"]) for batch in batches]
    ended: list[State] = []
    for batch, active, going_on in zip(on(where, batches), still, [*still[1:], 0], strict=True):
        if late:
            state["drawing"] = torch.tensor(going_on)
        state = procedure.step(state, batch)
        if going_on < active:
            ended.insert(0, part(state, going_on, active))
            state = part(state, 0, going_on)
    ends = (end for stack in ended for end in _ends(procedure, stack))
    results = []
    for k, (device, examples, end) in enumerate(zip(devices, held, ends, strict=False)):
        if name is not None:
            end.to_table(name, parameters[name].detach(), torch.from_numpy(used[k]))
        draw = partial(stream, trainer.seed, round=round, device=device)
        reply = Unread(end.trained, end.owed, draw) if end.owed else end.trained
        loss = end.loss / end.seen if end.seen else 0
        results.append(LocalResult(reply, len(examples), end.seen, loss))
    return results + idle


def _noised_late(procedure: LocalProcedure, parameters: Parameters) -> bool:
    """Whether table rows that no batch reads may get all their noise at the end.

    Secure noise is drawn step by step, others than the kernel want the whole table, and the steps
    of a subclass need not add up what is late. In half precision a small step is rounded away where
    the sum of many is not, which would tell the rows that are read from those that are not.
    """
    return (
        type(procedure) is DPSGD
        and not procedure.secure_noise
        and procedure.gradient is clipped_gradient
        and all(p.dtype.itemsize >= 4 for p in parameters.values())
    )


def _reads(token_ids: Tensor, rows: int) -> Tensor:
    """(n,) rows that a batch reads, those of device k from k x rows on; padding reads the first."""
    devices = len(token_ids)
    read = np.zeros((devices, rows), bool)
    read[np.arange(devices)[:, None], token_ids.reshape(devices, -1).numpy()] = True
    return torch.from_numpy(np.flatnonzero(read))


@dataclass(kw_only=True)
class _End:
    """A device of a stack after its last step.

    Attributes:
      trained: parameters; of a table at first the rows the device has, and such as nobody reads.
      owed: variance of the noise that each of them lacks, (), or (rows, 1) of a table.
      seen: real examples met.
      loss: sum of their losses.
    """

    trained: dict[str, Any]
    owed: dict[str, Tensor]
    seen: float
    loss: float

    def to_table(self, name: str, received: Tensor, rows: Tensor) -> None:
        """Put the device's rows, (n,), where they are in the table that was received."""
        self.trained[name] = OwnRows(received, rows, self.trained[name][: len(rows)])
        if self.owed:
            own = self.owed[name]
            others = own[-1:].expand(len(received), 1)
            self.owed[name] = OwnRows(others, rows, own[: len(rows)]).whole()


def _ends(procedure: LocalProcedure, state: State) -> list[_End]:
    """The devices of a stack; waits for where they are."""
    own = {name: p.detach().cpu() for name, p in procedure.finish(state).items()}
    owed = {}
    if "noise" in state and "owed" in state:
        owed = dict.fromkeys(own, state["owed"].cpu())
        owed |= {name: variance.cpu().unsqueeze(-1) for name, variance in state["late"].items()}
    each = zip(state["seen"].tolist(), state["loss"].tolist(), strict=True)
    return [
        _End(
            trained={name: p[k] for name, p in own.items()},
            owed={name: variance[k] for name, variance in owed.items()},
            seen=seen,
            loss=loss,
        )
        for k, (seen, loss) in enumerate(each)
    ]


def _own_rows(
    name: str | None, parameters: Parameters, held: list[Examples], where: torch.device
) -> tuple[list[Examples], list[np.ndarray], Parameters]:
    """As for one device: what each holds, the table rows its words use, and those rows stacked."""
    if name is None:
        return held, [], {}
    found = [np.unique(own.token_ids, return_inverse=True) for own in held]
    rows = [own.astype(np.int64) for own, _ in found]
    # A table is filled up by rows that no word reads, at least one.
    table = np.zeros((len(held), 1 + max(map(len, rows))), np.int64)
    for line, own in zip(table, rows, strict=True):
        line[: len(own)] = own
    small = sent(parameters[name].detach()[torch.from_numpy(table)], where)
    shifted = [
        examples.with_(token_ids=ids.reshape(examples.token_ids.shape))
        for examples, (_, ids) in zip(held, found, strict=True)
    ]
    return shifted, rows, {name: small}
