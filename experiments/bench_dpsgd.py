"""What does exact per-example privacy cost over ordinary training of the same model?

    python -m experiments.bench_dpsgd [--json FILE]

A private step (norms, clipping, noise on every parameter, update) against the fastest ordinary
step of the same model on the same batch, taken in turns, because machines drift: only ratios are to
be relied upon. Needs torch, numpy and scipy alone.
"""

import os
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from experiments.bench_plain import PlainLSTM, PlainTagger, PlainTransformer
from experiments.bench_result import Benchmark, Budget, Measurement, ratio_of_rounds
from fedsim.errors import require
from fedsim.models import BiLSTMTagger, JointTagger, TransformerTagger
from fedsim.models.joint import Batch
from fedsim.rng import stream, torch_generator
from fedsim.training.dpsgd import DPSGD

SIZES = {"rows": 5000, "intents": 64, "slot_labels": 100}
TOKENS = 16
MODELS = ("BiLSTM", "transformer")

BUDGETS = {("BiLSTM", 16): 2.0, ("BiLSTM", 64): 1.25, ("transformer", 16): 2.0} | {
    ("transformer", 64): 1.35
}
"""Largest ratio on one thread of a processor, by model and batch size."""

GPU_BUDGET = 1.15


def bench_dpsgd(
    *,
    batch_sizes: Sequence[int] = (16, 64, 256, 1024),
    models: Sequence[str] = MODELS,
    threads: Sequence[int] | None = None,
    steps: int = 10,
    repeats: int = 3,
) -> Benchmark:
    """Time ordinary and private steps in turns.

    Args:
      batch_sizes: examples a step; every example is 16 words long.
      models: of `MODELS`.
      threads: numbers of threads; None is one, and all cores.
      steps: timed steps of each, a repeat.
      repeats: how often all of it is done, with two steps of each to warm up.

    Raises:
      ConfigError: there is nothing to time, or a model is not known.
    """
    for name, value in (("steps", steps), ("repeats", repeats)):
        require(value >= 1, f"{name} is {value}; choose 1 or more")
    for model in models:
        require(model in MODELS, f"model is {model!r}; choose from {', '.join(MODELS)}")
    counts = sorted({1, os.cpu_count() or 1}) if threads is None else threads
    cases = [(m, b, t) for t in counts for m in models for b in batch_sizes]
    before, measurements, budgets = torch.get_num_threads(), [], []
    try:
        for model, size, count in cases:
            torch.set_num_threads(count)
            plain, private = _measured(model, size, count, steps, repeats)
            measurements += [plain, private]
            budget = BUDGETS.get((model, size))
            if count == 1 and budget is not None:
                budgets.append(Budget(name=private.name, value=private.ratio, budget=budget))
    finally:
        torch.set_num_threads(before)
    gpu = Budget(name="exact DP / plain on a GPU, batch 256", value=None, budget=GPU_BUDGET)
    return Benchmark(
        name="dpsgd",
        settings={"steps": steps, "repeats": repeats, "tokens": TOKENS, **SIZES},
        measurements=measurements,
        budgets=[*budgets, gpu],
        notes=["a line is a step; examples are those of its batch"],
    )


def _measured(
    model: str, size: int, threads: int, steps: int, repeats: int
) -> tuple[Measurement, Measurement]:
    """Both candidates of one case, in turns."""
    seconds: dict[str, list[list[float]]] = {"plain": [], "exact DP": []}
    for _ in range(repeats):
        turns = {name: list[float]() for name in seconds}
        candidates = dict(zip(seconds, _candidates(model, size), strict=True))
        for step in range(steps + 2):
            for name, run in candidates.items():
                began = time.perf_counter()
                run()
                if step >= 2:
                    turns[name].append(time.perf_counter() - began)
        for name, each in turns.items():
            seconds[name].append(each)
    where = f"{model}, batch {size}, {threads} thread{'s' if threads > 1 else ''}"
    examples = [[size] * steps] * repeats
    plain, private = (
        Measurement(name=f"{where}: {name}", seconds=each, examples=examples)
        for name, each in seconds.items()
    )
    ratio = ratio_of_rounds(private, plain)
    return plain, Measurement(
        name=private.name,
        seconds=private.seconds,
        examples=examples,
        ratio=ratio,
        against="plain",
    )


def _candidates(model: str, size: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """One ordinary and one private step, as functions, from the same parameters."""
    tagger, plain = tagger_and_plain(model)
    batch = batch_of(size)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)

    def ordinary() -> None:
        optimizer.zero_grad()
        plain(batch).backward()
        optimizer.step()

    procedure = DPSGD(
        losses=tagger.losses,
        learning_rate=0.01,
        clip_norm=1.0,
        noise_multiplier=1.0,
        physical_size=size,
    )
    state = procedure.start(dict(tagger.named_parameters()), stream(0, "bench noise"))
    return ordinary, lambda: procedure.step(state, batch)


def tagger_and_plain(model: str) -> tuple[JointTagger, PlainTagger]:
    """A tagger of the reference shape, and the same model from PyTorch's modules."""
    tagger: JointTagger
    if model == "BiLSTM":
        tagger = BiLSTMTagger(**SIZES, embedding=64, hidden=128)
        plain = PlainTagger(PlainLSTM(64, 128), **SIZES, embedding=64, features=256)
    else:
        tagger = TransformerTagger(**SIZES, embedding=128, layers=2, heads=4)
        plain = PlainTagger(PlainTransformer(128, 2, 4), **SIZES, embedding=128, features=128)
    tagger.initialise(torch_generator(0, "model"))
    plain.take(dict(tagger.named_parameters()))
    return tagger, plain


def batch_of(size: int) -> Batch:
    """Random sentences of 16 words; the work is that of real training."""
    draw = torch_generator(0, "bench batch")
    return {
        "token_ids": torch.randint(1, SIZES["rows"], (size, TOKENS, 1), generator=draw),
        "lengths": torch.full((size,), TOKENS),
        "intents": torch.randint(0, SIZES["intents"], (size,), generator=draw),
        "slots": torch.randint(0, SIZES["slot_labels"], (size, TOKENS), generator=draw),
        "weight": torch.ones(size),
        "size": torch.tensor(float(size)),
    }


if __name__ == "__main__":
    parser = ArgumentParser(description="Exact per-example DP-SGD against ordinary training.")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", help="default: one, and all cores")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write machine, measurements and budgets here")
    options = vars(parser.parse_args())
    file = options.pop("json")
    measured = bench_dpsgd(**options)
    print(measured.markdown())
    if file is not None:
        file.write_text(measured.json(), "utf-8")
