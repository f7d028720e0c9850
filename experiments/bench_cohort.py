"""What is won by training a cohort as stacked tensors, and what does privacy cost there?

    python -m experiments.bench_cohort [--json FILE]

The same cohort one device after another and as stacks, in turns, without and with example-level
DP, beside one model on large batches of the same examples. Where there is a GPU, all of it runs
there. Without one, the number of kernels says what an accelerator would be spared. Needs torch,
numpy, scipy and Opacus alone.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.bench_result import Benchmark, Budget, Measurement, ratio_of_rounds
from experiments.cohort_work import BATCH, LOADS, MODELS, POOLED, Work, cohort_of, model_of
from fedsim.errors import require
from fedsim.training.trainer import LocalResult
from fedsim.training.watch import Watch

COHORTS, LIGHT = (32, 256, 1024), 256
"""Devices of a cohort, and of the light one that an accelerator is to be kept busy with."""

EQUAL, DP_OVER_PLAIN, BATCHED = 1e-5, 1.25, 1 / 15
ONE_BY_ONE, STACKED = "one by one", "batched"


def bench_cohort(
    *,
    cohorts: Sequence[int] = COHORTS,
    loads: Sequence[str] = tuple(LOADS),
    models: Sequence[str] = MODELS,
    rounds: int = 1,
    repeats: int = 3,
) -> Benchmark:
    """Time rounds of cohorts in turns, compare what comes out, and read their memory.

    Args:
      cohorts: devices of a cohort.
      loads: of `LOADS`.
      models: of `MODELS`.
      rounds: timed rounds of each candidate and repeat.
      repeats: turns each candidate gets.

    Raises:
      ConfigError: there is nothing to time, or a load or a model is not known.
    """
    for name, value in (("rounds", rounds), ("repeats", repeats), ("cohort", min(cohorts))):
        require(value >= 1, f"{name} is {value}; choose 1 or more")
    for kind, given, known in (("load", loads, tuple(LOADS)), ("model", models, MODELS)):
        for name in given:
            require(name in known, f"{kind} is {name!r}; choose from {', '.join(known)}")
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    # As a worker of the engine: one thread a kernel.
    torch.set_num_threads(1)
    try:
        cells = [
            _measured(model, devices, load, where, rounds, repeats)
            for model in models
            for devices in cohorts
            for load in loads
        ]
        return _benchmark(cells, where, {"rounds": rounds, "repeats": repeats}, models)
    finally:
        torch.set_num_threads(threads)


class _Cell(NamedTuple):
    """One cohort under one model, without and with privacy.

    Attributes:
      name: model, devices and load.
      lines: one by one and batched, then both with privacy.
      away: largest difference of a parameter between a stack and its devices alone, of each
        device that was compared.
      exact: the largest of these in double precision.
      dp: seconds of a private round over those of a plain one, both batched.
      share: examples a second, batched, as a share of those of one model on large batches.
      private_share: the same, both private.
    """

    name: str
    lines: list[Measurement]
    away: list[float]
    exact: float
    dp: float
    share: float
    private_share: float


def _measured(
    model: str, devices: int, load: str, where: torch.device, rounds: int, repeats: int
) -> _Cell:
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
    return _Cell(
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
    """Train devices, drop what they reply, and say how many examples they hold."""
    return sum(result.examples for result in run(round, work.turn[:most]))


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


def _kernels(model: str, devices: int) -> tuple[int, int]:
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


def _benchmark(
    cells: Sequence[_Cell], where: torch.device, settings: dict[str, Any], models: Sequence[str]
) -> Benchmark:
    """Lines, budgets and notes of all cells."""
    on_gpu = where.type == "cuda"
    light = {c.name: c.lines[1].ratio for c in cells if c.name.endswith(f", {LIGHT} light")}
    away = [each for c in cells for each in c.away]
    exact = max(c.exact for c in cells)
    budgets = [
        Budget(name="equal_to_local", value=max(away), budget=EQUAL),
        Budget(name="equal_to_local, double precision", value=exact, budget=EQUAL),
    ]
    budgets += [
        Budget(name=f"dp_over_plain, {c.name}", value=c.dp, budget=DP_OVER_PLAIN) for c in cells
    ]
    budgets += [
        Budget(
            name=f"batched_over_one_by_one, {model}, {LIGHT} light",
            value=light.get(f"{model}, {LIGHT} light") if on_gpu else None,
            budget=BATCHED,
        )
        for model in models
    ]
    kernels = {} if on_gpu else {model: _kernels(model, LIGHT) for model in models}
    return Benchmark(
        name="cohort",
        settings={
            **settings,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "share_of_pooled": {c.name: c.share for c in cells},
            "private_share_of_pooled": {c.name: c.private_share for c in cells},
            "kernels_one_by_one_and_stacked": kernels,
        },
        measurements=[line for c in cells for line in c.lines],
        budgets=budgets,
        notes=[
            "a line is a round in which everybody takes part, one epoch in batches of "
            f"{BATCH}, on one thread; memory is that of the largest stack, or of the device with "
            "most to do",
            f"{sum(each <= EQUAL for each in away)} of {len(away)} devices compared agree to "
            f"{EQUAL:g}; where rounding decides a maximum over words, either gradient is right",
            *(
                f"{c.name}: {c.share:.2f} of the examples a second of one model on batches of "
                f"{POOLED}, {c.private_share:.2f} with privacy on both sides"
                for c in cells
            ),
            *(
                f"{model}, {LIGHT} light devices: {alone:,} kernels one by one, {stacked:,} as one "
                f"stack ({stacked / alone:.3f})"
                for model, (alone, stacked) in kernels.items()
            ),
        ],
    )


if __name__ == "__main__":
    parser = ArgumentParser(description="Cohorts as stacked tensors against devices one by one.")
    parser.add_argument("--cohorts", type=int, nargs="+", default=COHORTS)
    parser.add_argument("--loads", nargs="+", choices=tuple(LOADS), default=tuple(LOADS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write machine, measurements and budgets here")
    options = vars(parser.parse_args())
    file = options.pop("json")
    measured = bench_cohort(**options)
    print(measured.markdown())
    if file is not None:
        file.write_text(measured.json(), "utf-8")
