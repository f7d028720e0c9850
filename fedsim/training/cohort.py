"""How are several devices trained at once, each with its own weights, batches and streams?

Devices become one stack and run through the same three functions of a local procedure as one device
alone. Those with the most steps come first: a device that has taken its last step leaves at the
end of the stack, so that nobody is trained for longer than they would be alone. Results equal
those of `LocalTrainer.train` up to rounding; noise is one draw a step for the whole stack, for rows
of the table one before a step that reads them and one at the end, and equal to it in distribution.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import Parameters
from fedsim.models.packing import sent
from fedsim.population.examples import Examples
from fedsim.rng import stream
from fedsim.training.dpsgd import DPSGD
from fedsim.training.kernel import clipped_gradient
from fedsim.training.late_noise import settle, unread
from fedsim.training.own_rows import OwnRows
from fedsim.training.procedures import LocalProcedure, State
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
    if late and name is not None:
        rows = words[name].shape[1]
        state["late"] = {name: torch.zeros(busy, rows, device=where)}
        for batch in batches:
            batch["reads"] = _reads(batch["token_ids"], rows)
    ended: list[State] = []
    active = busy
    for batch in on(where, batches):
        still = len(batch["size"])
        if still < active:
            ended.insert(0, part(state, still, active))
            state, active = part(state, 0, still), still
        state = procedure.step(state, batch)
    ended.insert(0, state)
    tables: Iterable[Tensor] = ()
    if late and name is not None:
        tables = _noised(name, ended, used, sent(parameters[name].detach(), where)).cpu()
    done = [device for stack in ended for device in _each(procedure, stack)]
    new: list[dict[str, Tensor | OwnRows]] = [{} for _ in done]
    if name is not None:
        # Rows that a device has words for are those it trained.
        values = [moved[name][: len(rows)] for (moved, _, _), rows in zip(done, used, strict=True)]
        received = chain(tables, repeat(parameters[name].detach()))
        new = [
            {name: OwnRows(table, torch.from_numpy(rows), own)}
            for table, rows, own in zip(received, used, values, strict=False)
        ]
    return [
        LocalResult(moved | own, len(examples), seen, loss / seen if seen else 0)
        for (moved, seen, loss), own, examples in zip(done, new, held, strict=False)
    ] + idle


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


def _noised(name: str, ended: list[State], used: list[np.ndarray], received: Tensor) -> Tensor:
    """Give the rows of all devices what noise they lack, and the other rows all of theirs.

    Args:
      name: of the table.
      ended: states of devices that have taken their last step; the noise of the first goes on.
      used: rows of each device.
      received: the table as it was received.

    Returns:
      (devices, rows, width) tables, but for the rows that devices trained.
    """
    left, source = iter(used), {key: ended[0][key] for key in ("noise",) if key in ended[0]}
    spread = []
    for state in ended:
        variance = state["late"][name]
        spread.append(variance[:, -1].clone())
        own = [k * variance.shape[1] + np.arange(len(next(left))) for k in range(len(variance))]
        state |= source
        settle(state, name, sent(torch.from_numpy(np.concatenate(own)), variance.device))
        source = {key: state[key] for key in source}
    return unread(source, torch.cat(spread), received)


def _each(procedure: LocalProcedure, state: State) -> list[tuple[Parameters, float, float]]:
    """Parameters, real examples seen and summed loss of each device; waits for where they are."""
    own = {name: p.cpu() for name, p in procedure.finish(state).items()}
    seen, loss = state["seen"].tolist(), state["loss"].tolist()
    return [({name: p[k] for name, p in own.items()}, seen[k], loss[k]) for k in range(len(seen))]


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
