"""What is measured of one cohort: seconds, memory, and how far stacks are from devices alone?"""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from experiments.bench_result import Measurement, ratio_of_rounds
from experiments.cohort_work import Work, cohort_of, model_of
from fedsim.training.trainer import LocalResult
from fedsim.training.watch import Watch

ONE_BY_ONE, STACKED = "one by one", "batched"


class Cell(NamedTuple):
    """One cohort under one model, without and with privacy.

    Attributes:
      name: model, devices and load.
      lines: one by one and batched, then both with privacy.
      away: largest difference of a parameter between a stack and its devices alone, of each
        device that was compared.
      exact: the largest of these in double precision.
      dp: seconds of a private round over those of a plain one, both batched.
      served: examples in the batches of a private round, over those of a plain one.
      places: words worked on in a private round, with all that fills stacks up, over the same.
      share: examples a second, batched, as a share of those of one model on large batches.
      private_share: the same, both private.
    """

    name: str
    lines: list[Measurement]
    away: list[float]
    exact: float
    dp: float
    served: float
    places: float
    share: float
    private_share: float


def measured_cell(
    model: str, devices: int, load: str, where: torch.device, rounds: int, repeats: int
) -> Cell:
    """Everything about one cohort; candidates take turns, because machines drift."""
    people, tagger, name = cohort_of(devices, load), model_of(model), f"{model}, {devices} {load}"
    plain, private = (
        Work(people=people, model=tagger, private=dp, where=where) for dp in (False, True)
    )
    candidates: dict[str, Callable[[int], int]] = {}
    peaks = {}
    for work, label in ((plain, name), (private, f"{name}, DP")):
        for way, run, most in (
            (ONE_BY_ONE, work.one_by_one, 1),
            (STACKED, work.stacked, work.plan.devices),
        ):
            candidates[f"{label}: {way}"] = partial(_spent, run, work)
            peaks[f"{label}: {way}"] = _peak(partial(_spent, run, work, most=most), where)
        candidates[f"{label}: pooled"] = work.pooled
    seconds: dict[str, list[list[float]]] = {each: [] for each in candidates}
    met: dict[str, list[list[int]]] = {each: [] for each in candidates}
    for _ in range(repeats):
        for each in candidates:
            seconds[each].append([])
            met[each].append([])
        for turn in range(1, rounds + 1):
            for each, round_of in candidates.items():
                began = time.perf_counter()
                met[each][-1].append(round_of(turn))
                if where.type == "cuda":
                    torch.cuda.synchronize()
                seconds[each][-1].append(time.perf_counter() - began)
    alone, batched, pooled, private_alone, private_batched, private_pooled = (
        Measurement(
            name=n, seconds=s, examples=met[n], peak_bytes=[peaks[n]] if n in peaks else None
        )
        for n, s in seconds.items()
    )
    return Cell(
        name=name,
        lines=[
            alone,
            replace(batched, ratio=ratio_of_rounds(batched, alone), against=ONE_BY_ONE),
            private_alone,
            replace(
                private_batched,
                ratio=ratio_of_rounds(private_batched, private_alone),
                against=ONE_BY_ONE,
            ),
        ],
        away=_away(plain, plain.plan.devices, torch.float32),
        exact=max(_away(plain, plain.plan.devices, torch.float64)),
        dp=ratio_of_rounds(private_batched, batched),
        served=private.served(1) / plain.served(1),
        places=private.places(1) / plain.places(1),
        share=_share(batched, pooled),
        private_share=_share(private_batched, private_pooled),
    )


def _share(line: Measurement, pooled: Measurement) -> float:
    return (line.examples_per_second or 0.0) / (pooled.examples_per_second or 1.0)


def _spent(
    run: Callable[[int, list[int]], Iterator[LocalResult]],
    work: Work,
    round: int,
    most: int | None = None,
) -> int:
    """Train devices, take their mean, and say how many examples they hold."""
    return work.finished(run(round, work.turn[:most]))


def _peak(run: Callable[[int], int], where: torch.device) -> int:
    """Most memory of the largest stack, or of the device with most to do."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run(0)
        return torch.cuda.max_memory_allocated()
    with Watch() as seen:
        run(0)
    return seen.peak_bytes


def _away(work: Work, most: int, dtype: torch.dtype) -> list[float]:
    """Largest difference of a parameter for each device of the first and the last stack."""
    same = replace(work, model=deepcopy(work.model).to(dtype))
    ends = [work.turn[:most], work.turn[most:][-most:]]
    return [
        max(float((one.parameters[name] - p).abs().max()) for name, p in other.parameters.items())
        for devices in ends
        for one, other in zip(
            same.stacked(1, devices, most), same.one_by_one(1, devices), strict=True
        )
    ]


def kernels_of(model: str, devices: int) -> tuple[int, int]:
    """Kernels of a round of light devices, one by one and as a single stack."""
    here = torch.device("cpu")
    people = cohort_of(devices, "light")
    work = Work(people=people, model=model_of(model), private=False, where=here)
    counts = []
    for run in (work.one_by_one, partial(work.stacked, most=devices)):
        with Watch() as seen:
            _spent(run, work, 1)
        counts.append(seen.kernels)
    return counts[0], counts[1]
