"""Which steps does the DP-SGD benchmark compare: one ordinary, several private ones.

All train the same model from the same parameters on the same batch. A private step draws noise for
every parameter, adds the clipped sum to it and updates.
"""

import os
from collections.abc import Callable

import torch

from experiments.bench_plain import PlainLSTM, PlainTagger, PlainTransformer
from fedsim.models import BiLSTMTagger, JointTagger, TransformerTagger
from fedsim.models.joint import Batch
from fedsim.privacy.rounding import Precision
from fedsim.rng import stream, torch_generator
from fedsim.training.backends import ClippedGradient, backend
from fedsim.training.dpsgd import DPSGD
from fedsim.training.one_by_one import one_by_one

SIZES = {"rows": 5000, "intents": 64, "slot_labels": 100}
TOKENS = 16
MODELS = ("BiLSTM", "transformer")

PLAIN, OURS = "plain", "exact DP"
NAIVE = "naive loop"
RIVALS = {"Opacus hooks": "opacus-hooks", "Opacus ghost": "opacus-ghost"}

Step = Callable[[], object]


def steps_of(
    model: str,
    size: int,
    *,
    rivals: bool = True,
    naive: bool = True,
    precision: Precision = "float32",
) -> dict[str, Step]:
    """Name -> one step; the first is the ordinary one, the second ours.

    Args:
      model: of `MODELS`.
      size: examples of the batch.
      rivals: with Opacus's.
      naive: with a loop over single examples.
      precision: of the passes of the ordinary step and of ours.
    """
    tagger, plain = tagger_and_plain(model)
    batch = batch_of(size)
    steps = {PLAIN: _ordinary(plain, batch, precision), OURS: _ours(tagger, batch, precision)}
    if rivals:
        steps |= {n: private_step(backend(way, tagger), tagger, batch) for n, way in RIVALS.items()}
    if naive:
        steps[NAIVE] = private_step(one_by_one, tagger, batch)
    return steps


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


def peak_bytes(step: Step) -> int:
    """Most memory that the tensors of one step had at a time, above what was there before.

    Example:
      >>> peak_bytes(lambda: (torch.ones(1000), torch.ones(500)))
      6000
    """
    # The profiler writes of its own start and end to standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def private_step(gradient: ClippedGradient, tagger: JointTagger, batch: Batch) -> Step:
    """A private step whose clipped sum is computed one way; parameters are copies of the tagger's.

    Args:
      gradient: computes the clipped sum.
      tagger: what is trained.
      batch: of one device.
    """
    parameters = {name: p.detach().clone() for name, p in tagger.named_parameters()}
    draw = torch_generator(0, "bench noise")

    def step() -> None:
        total = {n: torch.empty_like(p).normal_(generator=draw) for n, p in parameters.items()}
        gradient(tagger.losses, parameters, batch, 1.0, into=total)
        for name, p in parameters.items():
            p.add_(total[name], alpha=-0.01 / len(batch["weight"]))

    return step


def _ordinary(plain: PlainTagger, batch: Batch, precision: Precision) -> Step:
    if precision == "bfloat16":
        # All of it, update included: nothing that is ordinary is faster, `torch.autocast` neither.
        plain = plain.bfloat16()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        plain(batch).backward()
        optimizer.step()

    return step


def _ours(tagger: JointTagger, batch: Batch, precision: Precision) -> Step:
    procedure = DPSGD(
        losses=tagger.losses,
        learning_rate=0.01,
        clip_norm=1.0,
        noise_multiplier=1.0,
        physical_size=len(batch["weight"]),
        precision=precision,
    )
    state = procedure.start(dict(tagger.named_parameters()), stream(0, "bench noise"))
    return lambda: procedure.step(state, batch)
