"""How are several devices trained at once, each with its own weights, batches and streams?

Devices become one stack and run through the same three functions of a local procedure as one device
alone. Those with the most steps come first: a device that has taken its last step leaves at the
end of the stack, so that nobody is trained for longer than they would be alone. Results equal
those of `LocalTrainer.train` up to rounding; noise is one draw a step for the whole stack, and
equal to it in distribution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import Parameters
from fedsim.models.packing import sent
from fedsim.population.examples import Examples
from fedsim.rng import stream
from fedsim.training.procedures import LocalProcedure
from fedsim.training.stacking import StackedBatches, copies, on, part
from fedsim.training.trainer import LocalResult, LocalTrainer

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
    own, rows, words = _own_rows(trainer, procedure, parameters, held[:busy], where)
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
    trained: list[_Trained] = []
    active = busy
    for batch in on(where, batches):
        still = len(batch["size"])
        if still < active:
            trained.append(_Trained.of(procedure, part(state, still, active)))
            state, active = part(state, 0, still), still
        state = procedure.step(state, batch)
    trained.append(_Trained.of(procedure, state))
    return [
        LocalResult(_whole(parameters, each, used), len(examples), seen, loss / seen if seen else 0)
        for (each, seen, loss), used, examples in zip(
            (device for stack in reversed(trained) for device in stack.each()),
            rows,
            held,
            strict=False,
        )
    ] + idle


class _Trained(NamedTuple):
    """Devices that have taken their last step; all with a leading axis."""

    parameters: Parameters
    seen: Tensor
    loss: Tensor

    @classmethod
    def of(cls, procedure: LocalProcedure, state: dict) -> "_Trained":
        return cls(procedure.finish(state), state["seen"], state["loss"])

    def each(self) -> list[tuple[Parameters, float, float]]:
        """Parameters, real examples seen and summed loss of each; waits for the device."""
        own = {name: p.cpu() for name, p in self.parameters.items()}
        seen, loss = self.seen.tolist(), self.loss.tolist()
        return [
            ({name: p[k] for name, p in own.items()}, seen[k], loss[k]) for k in range(len(seen))
        ]


def _own_rows(
    trainer: LocalTrainer,
    procedure: LocalProcedure,
    parameters: Parameters,
    held: list[Examples],
    where: torch.device,
) -> tuple[list[Examples], list[dict[str, np.ndarray]], Parameters]:
    """As for one device: what each holds, the table rows its words use, and those rows stacked."""
    name = trainer.own_table(procedure)
    if name is None:
        return held, [{}] * len(held), {}
    found = [np.unique(own.token_ids, return_inverse=True) for own in held]
    most = max(len(rows) for rows, _ in found)
    # A table is filled up by rows that no word reads.
    table = np.zeros((len(held), most), np.int64)
    for line, (rows, _) in zip(table, found, strict=True):
        line[: len(rows)] = rows
    small = sent(parameters[name].detach()[torch.from_numpy(table)], where)
    own = [
        examples.with_(token_ids=ids.reshape(examples.token_ids.shape))
        for examples, (_, ids) in zip(held, found, strict=True)
    ]
    return own, [{name: rows} for rows, _ in found], {name: small}


def _whole(parameters: Parameters, own: Parameters, used: dict[str, np.ndarray]) -> Parameters:
    """What a device replies with: rows that it did not use are those it received."""
    for name, rows in used.items():
        whole = parameters[name].detach().clone()
        whole[torch.from_numpy(rows.astype(np.int64))] = own[name][: len(rows)]
        own = own | {name: whole}
    return own
