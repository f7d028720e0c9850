"""What is won by training a cohort as stacked tensors, and what does privacy cost there?

    python -m experiments.bench_cohort [--json FILE]

The same cohort one device after another and as stacks, in turns, without and with example-level
DP, beside one model on large batches of the same examples. Where there is a GPU, all of it runs
there. Without one, the number of kernels says what an accelerator would be spared. Needs torch,
numpy, scipy and Opacus alone.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import torch

from experiments.bench_result import Benchmark, Budget, measure
from experiments.cohort_cells import Cell, kernels_of, measured_cell
from experiments.cohort_work import BATCH, LOADS, MODELS, POOLED
from fedsim.errors import require

COHORTS, LIGHT = (32, 256, 1024), 256
"""Devices of a cohort, and of the light one that an accelerator is to be kept busy with."""

EQUAL, DP_OVER_PLAIN, BATCHED = 1e-5, 1.25, 1 / 15

EXACT = 1e-12
"""What stacks and devices alone may differ by in double precision, where no rounding is near."""


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
            measured_cell(model, devices, load, where, rounds, repeats)
            for model in models
            for devices in cohorts
            for load in loads
        ]
        return _benchmark(cells, where, {"rounds": rounds, "repeats": repeats}, models)
    finally:
        torch.set_num_threads(threads)


def _benchmark(
    cells: Sequence[Cell], where: torch.device, settings: dict[str, Any], models: Sequence[str]
) -> Benchmark:
    """Lines, budgets and notes of all cells."""
    on_gpu = where.type == "cuda"
    light = {c.name: c.lines[1].ratio for c in cells if c.name.endswith(f", {LIGHT} light")}
    away = [each for c in cells for each in c.away]
    exact = max(c.exact for c in cells)
    budgets = [
        Budget(name="equal_to_local", value=max(away), budget=EQUAL),
        Budget(name="equal_to_local, double precision", value=exact, budget=EXACT),
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
    kernels = {} if on_gpu else {model: kernels_of(model, LIGHT) for model in models}
    return Benchmark(
        name="cohort",
        settings={
            **settings,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "share_of_pooled": {c.name: c.share for c in cells},
            "private_share_of_pooled": {c.name: c.private_share for c in cells},
            "devices_further_than_equal": {c.name: _further(c) for c in cells},
            "private_over_plain_examples": {c.name: c.served for c in cells},
            "private_over_plain_places": {c.name: c.places for c in cells},
            "kernels_one_by_one_and_stacked": kernels,
        },
        measurements=[line for c in cells for line in c.lines],
        budgets=budgets,
        notes=[
            "a line is a round in which everybody takes part, one epoch in batches of "
            f"{BATCH} and the mean of what comes out, on one thread; memory is that of the largest "
            "stack, or of the device with most to do",
            f"{sum(map(_further, cells))} of {len(away)} devices compared differ by more than "
            f"{EQUAL:g}, and none by more than {exact:.1g} in double precision: where words are "
            "equal but for rounding, rounding decides which one a maximum is, and with it the "
            "gradient; either is right",
            *(
                f"{c.name}: {c.share:.2f} of the examples a second of one model on batches of "
                f"{POOLED}, {c.private_share:.2f} with privacy on both sides"
                for c in cells
            ),
            *(
                f"{c.name}: the batches of a private round hold {c.served:.2f} times the examples "
                f"of a plain one, and fill {c.places:.2f} times the places for words"
                for c in cells
            ),
            *(
                f"{model}, {LIGHT} light devices: {alone:,} kernels one by one, {stacked:,} as one "
                f"stack ({stacked / alone:.3f})"
                for model, (alone, stacked) in kernels.items()
            ),
        ],
    )


def _further(cell: Cell) -> int:
    """Devices that differ by more than they may."""
    return sum(each > EQUAL for each in cell.away)


if __name__ == "__main__":
    parser = ArgumentParser(description="Cohorts as stacked tensors against devices one by one.")
    parser.add_argument("--cohorts", type=int, nargs="+", default=COHORTS)
    parser.add_argument("--loads", nargs="+", choices=tuple(LOADS), default=tuple(LOADS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    measure(parser, bench_cohort)
