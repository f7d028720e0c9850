"""How many devices are trained at once, and can the model be trained so at all?

Planned before the first round, from the memory that two of the most active devices take: nothing of
a plan depends on what else runs on the machine, so that the same run has the same plan on the same
kind of device.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedsim.models.joint import Parameters
from fedsim.training.batches import tensors
from fedsim.training.cohort import train_together
from fedsim.training.stacking import StackedBatches, copies, on
from fedsim.training.trainer import LocalTrainer
from fedsim.training.watch import Watch

log = logging.getLogger(__name__)

CPU_BYTES = 32 * 2**20
"""Memory of a stack on a processor: about what the caches of a core hold. Twice as much is still
faster than a stack of few devices, `SHARING`; beyond that a stack is slower."""

SHARING = 8
"""Devices up to which a stack on a processor gets faster whatever it takes, because they share what
an operation costs besides its arithmetic."""

FEWEST = 3
"""Devices of a stack on a processor from which on it is faster than they are one by one. A private
stack is so from one device on: rows that nobody reads get their noise in one draw."""

GPU_SHARE = 0.6
"""Share of an accelerator's memory that a stack may take; the largest batch of a run may be larger
than the one that was measured."""

NEAR = 1e-3
"""Relative difference up to which two losses are equal but for rounding."""


@dataclass(frozen=True, kw_only=True)
class ChunkPlan:
    """How cohorts are trained.

    Attributes:
      where: the torch device.
      devices: devices of a stack at most.
      device_bytes: memory that one of the most active devices takes in a stack, 0 where unknown.
      one_by_one: why devices are trained one by one instead, on the processor, or None.
    """

    where: str
    devices: int
    device_bytes: int
    one_by_one: str | None = None


def planned(trainer: LocalTrainer, parameters: Parameters, where: torch.device) -> ChunkPlan:
    """Train two of the most active devices as a stack, and see what it takes.

    Args:
      trainer: what devices do.
      parameters: of the untrained model.
      where: the torch device that is to compute.
    """
    people = trainer.population
    most = [people.activity(period) for period in range(people.periods)]
    period = int(np.argmax([held.max(initial=0) for held in most]))
    pair = np.argsort(-most[period], kind="stable")[:2].tolist()
    one_step = replace(trainer, local_steps=1)

    def work() -> None:
        train_together(one_step, parameters, pair, period=period, round=0, where=where)

    try:
        _compare(trainer, parameters, pair, period, where)
        with Watch() as seen:
            work()
    except Exception as error:
        # Whatever a user's model raises when it is shown a stack.
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        log.warning("the model cannot be trained as a stack, but one device by one (%s)", why)
        return ChunkPlan(where="cpu", devices=1, device_bytes=0, one_by_one=why)
    each = seen.peak_bytes // len(pair)
    devices = _fitting(max(1, each), where)
    slower = where.type == "cpu" and trainer.privacy is None and devices < FEWEST
    return ChunkPlan(
        where=where.type,
        devices=devices,
        device_bytes=each,
        one_by_one=f"a stack of {devices} on a processor is slower" if slower else None,
    )


def _fitting(each: int, where: torch.device) -> int:
    """Devices of a stack, at least one, where each takes so many bytes."""
    if where.type == "cpu":
        return max(1, CPU_BYTES // each, min(SHARING, 2 * CPU_BYTES // each))
    return max(1, int(GPU_SHARE * torch.cuda.get_device_properties(where).total_memory) // each)


def _compare(
    trainer: LocalTrainer,
    parameters: Parameters,
    devices: Sequence[int],
    period: int,
    where: torch.device,
) -> None:
    """Raise unless a stack has the losses that its devices have alone."""
    held = [trainer.population.held(device, period, trainer.seed) for device in devices]
    drawn = [np.arange(min(len(own), trainer.batch_size)) for own in held]
    sizes = [float(len(own)) for own in drawn]
    (batch,) = on(where, [StackedBatches(held).batch(drawn, sizes)])
    with torch.no_grad():
        together = trainer.model.losses(copies(parameters, len(held), where), batch).cpu()
        for stacked, own, indices in zip(together, held, drawn, strict=True):
            alone = trainer.model.losses(parameters, tensors(own, indices))
            torch.testing.assert_close(stacked[: len(alone)], alone, rtol=NEAR, atol=NEAR)
