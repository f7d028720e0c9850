"""What does a step of the DP-SGD experiment cost, computed in each way?

Measured on the experiment's own model and the first batch that its training draws, on one thread,
all ways in turns, in processor time: other work on the machine disturbs that least. What is
measured stays in a file, and is not measured again.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.bench_result import machine
from experiments.central import PRIVATE_BATCH_SIZE, all_training_examples, private_batches
from experiments.dpsgd_rows import Case
from experiments.dpsgd_steps import RIVALS, Step, peak_bytes, private_step
from experiments.options import RunOptions, client_of, model_of, population_of
from experiments.ragged_plain import ragged_plain
from fedsim.errors import require
from fedsim.folder import read_json
from fedsim.models import JointTagger
from fedsim.models.joint import Batch
from fedsim.population import Population
from fedsim.privacy import ExampleLevel
from fedsim.privacy.edp_sgd import edp_sgd
from fedsim.report.dpsgd import EDP, NAIVE, OURS, PLAIN, Cost
from fedsim.report.files import write_whole
from fedsim.rng import stream
from fedsim.training import SGD, private_procedures
from fedsim.training.backends import ClippedGradient, backend
from fedsim.training.one_by_one import one_by_one

RATE, SIGMA = 0.01, 1.0
"""Learning rate and noise of measured steps; neither changes what they cost."""

_DATA = ("corpus", "columns", "partition", "labels", "vocabulary", "devices", "model", "batch_size")


class Drawn(NamedTuple):
    """A batch of the experiment.

    Attributes:
      size: examples that a step expects.
      filled: as private training gets it, filled up with examples of weight 0.
      real: the same without these.
    """

    size: int
    filled: Batch
    real: Batch


def step_costs(case: Case, folder: Path, turns: int) -> dict[str, Cost]:
    """Way of computing a step -> its cost, measured or read back.

    Args:
      case: what is trained.
      folder: of the file, which is named after the case.
      turns: timed steps of each way; one more, before them, is not timed.

    Raises:
      ConfigError: the file is of other options.
    """
    path = folder / f"{case.name}.json"
    options = {name: getattr(case.options, name) for name in _DATA}
    settings = options | {"setting": case.setting, "turns": turns}
    if path.exists():
        contents = read_json(path)
        found = contents.get("settings")
        require(
            found == settings,
            f"{path} was measured with {found}, but this experiment wants {settings}; name another "
            "output folder or remove that file",
        )
    else:
        contents = {"machine": machine(), "settings": settings, **measured(case, turns)}
        write_whole(path, (json.dumps(contents, indent=1) + "\n").encode())
    return costs_of(contents["seconds"], contents["peak_bytes"])


def costs_of(
    seconds: dict[str, dict[str, list[float]]], peaks: dict[str, dict[str, int]]
) -> dict[str, Cost]:
    """Costs relative to the ordinary step with the lowest median time.

    Args:
      seconds: "ordinary" and "private" -> way -> (turns,) processor seconds.
      peaks: the same -> bytes.

    Example:
      >>> ordinary = {"a": [2.0, 4.0], "b": [9.0, 9.0]}
      >>> seconds = {"ordinary": ordinary, "private": {"ours": [3.0, 8.0]}}
      >>> peaks = {"ordinary": {"a": 10, "b": 1}, "private": {"ours": 15}}
      >>> costs_of(seconds, peaks)["ours"]
      Cost(seconds=5.5, time=1.75, memory=1.5)
    """
    medians = {way: float(np.median(own)) for way, own in seconds["ordinary"].items()}
    fastest = min(medians, key=lambda way: medians[way])
    base, least = np.array(seconds["ordinary"][fastest]), peaks["ordinary"][fastest]
    costs = {PLAIN: Cost(seconds=medians[fastest], time=1.0, memory=1.0)}
    for way, own in seconds["private"].items():
        costs[way] = Cost(
            seconds=float(np.median(own)),
            time=float(np.median(np.array(own) / base)),
            memory=peaks["private"][way] / least,
        )
    return costs


def measured(case: Case, turns: int) -> dict[str, Any]:
    """Seconds of every turn and peak memory of one step, way by way."""
    people = population_of(case.options)
    model = model_of(case.options, people)
    drawn = first_batch(case, people, model)
    ordinary, private = ordinary_steps(case, model, drawn), private_steps(case, model, drawn)
    steps = {("ordinary", way): step for way, step in ordinary.items()}
    steps |= {("private", way): step for way, step in private.items()}
    seconds: dict[str, dict[str, list[float]]] = {"ordinary": {}, "private": {}}
    peaks: dict[str, dict[str, int]] = {"ordinary": {}, "private": {}}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(1 + turns):
            for (kind, way), step in steps.items():
                began = time.process_time()
                step()
                if turn:
                    seconds[kind].setdefault(way, []).append(time.process_time() - began)
        for (kind, way), step in steps.items():
            peaks[kind][way] = peak_bytes(step)
    finally:
        torch.set_num_threads(threads)
    examples = len(drawn.real["weight"])
    return {"examples": examples, "seconds": seconds, "peak_bytes": peaks}


def first_batch(case: Case, people: Population, model: JointTagger) -> Drawn:
    """The first batch that is not empty: of all data, or of a device that holds about a batch."""
    options = case.options
    if case.setting == "central":
        size = PRIVATE_BATCH_SIZE
        batches = private_batches(all_training_examples(people), stream(0, "central", 1))
    else:
        size = options.batch_size
        held = people.activity(0)
        device = int(np.lexsort((held, held < size))[0]) if (held >= size).any() else held.argmax()
        trainer = client_of(_private(options)).bind(people, model, seed=0)
        own = people.held(int(device), 0, 0)
        batches = trainer.batches(own, device=int(device), round=1)
    filled = next(batch for batch in batches if batch["weight"].any())
    real = int((filled["weight"] > 0).sum())
    few = {name: value[:real] if value.dim() else value for name, value in filled.items()}
    return Drawn(size, filled, few)


def ordinary_steps(case: Case, model: JointTagger, drawn: Drawn) -> dict[str, Step]:
    """Ways to train without privacy, on one batch; the fastest counts.

    On a device only the rows of its own words are trained, which noise on every row rules out.
    """
    batch, own = drawn.real, {n: p.detach() for n, p in model.named_parameters()}
    plain = ragged_plain(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE)

    def modules() -> None:
        optimizer.zero_grad()
        plain(batch).backward()
        optimizer.step()

    sgd = SGD(losses=model.losses, learning_rate=RATE)
    whole = sgd.start(own)
    steps: dict[str, Step] = {"torch modules": modules, "fedsim": lambda: sgd.step(whole, batch)}
    if case.setting == "federated":
        rows, ids = batch["token_ids"].unique(return_inverse=True)
        few = sgd.start(own | {"embedding": own["embedding"][rows]})
        short = {**batch, "token_ids": ids}
        steps["fedsim, rows in use"] = lambda: sgd.step(few, short)
    return steps


def private_steps(case: Case, model: JointTagger, drawn: Drawn) -> dict[str, Step]:
    """Every private way: those that train, on the batch as they get it, and those that could."""
    parameters = dict(model.named_parameters())
    exact = ExampleLevel(clip_norm=case.options.clip_norm, noise_multiplier=SIGMA)
    edp = edp_sgd(exact, parameters, steps_an_epoch=1, factor=1.0)
    steps: dict[str, Step] = {}
    for way, private in ((OURS, exact), (EDP, edp)):
        steps[way] = _training(private, model, drawn)
    for way, gradient in exact_gradients(model).items():
        if way != OURS:
            steps[way] = private_step(gradient, model, drawn.real)
    return steps


def exact_gradients(model: JointTagger) -> dict[str, ClippedGradient]:
    """Every way to the same clipped sum."""
    rivals = {way: backend(name, model) for way, name in RIVALS.items()}
    return {OURS: backend("book-keeping", model), **rivals, NAIVE: one_by_one}


def _training(private: ExampleLevel, model: JointTagger, drawn: Drawn) -> Step:
    procedure = private_procedures(private, model, RATE, drawn.size)(0.0)
    state = procedure.start(dict(model.named_parameters()), stream(0, "example-noise"))
    return lambda: procedure.step(state, drawn.filled)


def _private(options: RunOptions) -> RunOptions:
    return replace(options, dp="example", noise_multiplier=SIGMA)
