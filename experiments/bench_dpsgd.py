"""What does exact per-example privacy cost over ordinary training of the same model?

    python -m experiments.bench_dpsgd [--json FILE]

A private step (norms, clipping, noise on every parameter, update) against the fastest ordinary
step of the same model on the same batch, and against the same private step by Opacus and by a loop
over single examples. All are taken in turns, because machines drift: only ratios are to be relied
upon. Needs torch, numpy, scipy and Opacus alone.
"""

import os
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace

import torch

from experiments.bench_result import (
    Benchmark,
    Budget,
    Measurement,
    measure,
    ratio_of_peaks,
    ratio_of_rounds,
)
from experiments.dpsgd_steps import MODELS, OURS, PLAIN, SIZES, TOKENS, peak_bytes, steps_of
from fedsim.errors import require
from fedsim.privacy.rounding import TAU, Precision

BUDGETS = {("BiLSTM", 16): 2.0, ("BiLSTM", 64): 1.25, ("transformer", 16): 2.0} | {
    ("transformer", 64): 1.35
}
"""Largest ratio on one thread of a processor, by model and batch size."""

GPU_BUDGETS = {"exact DP / plain on a GPU, batch 256": 1.15} | {
    "peak memory of exact DP / plain on a GPU, batch 256": 1.25
}

WARM_UP, RIVAL_STEPS, NAIVE_SIZE = 2, 2, 64
"""Steps before any is timed; timed steps of what is many times slower, a repeat; the largest batch
that is looped over."""


def bench_dpsgd(
    *,
    batch_sizes: Sequence[int] = (16, 64, 256, 1024),
    models: Sequence[str] = MODELS,
    threads: Sequence[int] | None = None,
    steps: int = 10,
    repeats: int = 3,
    rivals: bool = True,
    precision: Precision = "float32",
) -> Benchmark:
    """Time ordinary and private steps in turns, and read how much memory one of each takes.

    Args:
      batch_sizes: examples a step; every example is 16 words long.
      models: of `MODELS`.
      threads: numbers of threads; None is one, and all cores.
      steps: timed steps of each, a repeat; of Opacus and the loop at most two.
      repeats: how often all of it is done, with two steps of each to warm up.
      rivals: whether Opacus and, up to batch 64, the loop take part; in float32 alone.
      precision: of forward and backward passes, on both sides; budgets are those of float32.

    Raises:
      ConfigError: there is nothing to time, or a model is not known.
    """
    for name, value in (("steps", steps), ("repeats", repeats)):
        require(value >= 1, f"{name} is {value}; choose 1 or more")
    for model in models:
        require(model in MODELS, f"model is {model!r}; choose from {', '.join(MODELS)}")
    require(
        precision == "float32" or not rivals,
        f"precision is {precision}, in which Opacus and the loop do not take part; "
        "add --without-rivals",
    )
    counts = sorted({1, os.cpu_count() or 1}) if threads is None else threads
    cases = [(m, b, t) for t in counts for m in models for b in batch_sizes]
    before, measurements, budgets = torch.get_num_threads(), list[Measurement](), list[Budget]()
    try:
        for model, size, count in cases:
            torch.set_num_threads(count)
            lines = _measured(model, size, count, steps, repeats, rivals, precision)
            measurements += lines
            budget = BUDGETS.get((model, size))
            if count == 1 and budget is not None and precision == "float32":
                budgets.append(Budget(name=lines[1].name, value=lines[1].ratio, budget=budget))
    finally:
        torch.set_num_threads(before)
    gpu = [Budget(name=name, value=None, budget=most) for name, most in GPU_BUDGETS.items()]
    return Benchmark(
        name="dpsgd",
        settings={
            "steps": steps,
            "repeats": repeats,
            "tokens": TOKENS,
            "precision": precision,
            **SIZES,
        },
        measurements=measurements,
        budgets=[*budgets, *gpu],
        notes=[
            "a line is a step; examples are those of its batch; memory is the most that the "
            "tensors of one step had at a time, above the parameters",
            "only processors are measured",
        ],
    )


def _measured(
    model: str,
    size: int,
    threads: int,
    steps: int,
    repeats: int,
    rivals: bool,
    precision: Precision,
) -> list[Measurement]:
    """All candidates of one case, in turns; the ordinary one first, ours second."""
    seconds: dict[str, list[list[float]]] = {}
    peaks: dict[str, list[int]] = {}
    for _ in range(repeats):
        naive = rivals and size <= NAIVE_SIZE
        candidates = steps_of(model, size, rivals=rivals, naive=naive, precision=precision)
        for name, run in candidates.items():
            peaks.setdefault(name, []).append(peak_bytes(run))
            seconds.setdefault(name, []).append([])
        for turn in range(WARM_UP + steps):
            for name, run in candidates.items():
                if name not in (PLAIN, OURS) and not 1 <= turn < WARM_UP + RIVAL_STEPS:
                    continue
                began = time.perf_counter()
                run()
                if turn >= WARM_UP:
                    seconds[name][-1].append(time.perf_counter() - began)
    where = f"{model}, batch {size}, {threads} thread{'s' if threads > 1 else ''}"
    where += "" if precision == "float32" else f", {precision}"
    lines = [
        Measurement(
            name=f"{where}: {name}",
            seconds=each,
            examples=[[size] * len(turns) for turns in each],
            peak_bytes=peaks[name],
        )
        for name, each in seconds.items()
    ]
    return [lines[0], *(_compared(line, lines[0]) for line in lines[1:])]


def _compared(line: Measurement, plain: Measurement) -> Measurement:
    """The line, with its ratios to the ordinary steps of the same turns."""
    turns = len(line.seconds[0])
    same = replace(plain, seconds=[each[:turns] for each in plain.seconds])
    return replace(
        line,
        ratio=ratio_of_rounds(line, same),
        peak_ratio=ratio_of_peaks(line, plain),
        against=PLAIN,
    )


if __name__ == "__main__":
    parser = ArgumentParser(description="Exact per-example DP-SGD against ordinary training.")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", help="default: one, and all cores")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=list(TAU), default="float32")
    parser.add_argument("--without-rivals", action="store_false", dest="rivals")
    measure(parser, bench_dpsgd)
