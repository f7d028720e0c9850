"""How good would the model be if all devices' data were in one place?

The upper end of every comparison: the same model on the same training examples, by AdamW on
shuffled batches, or privately (`--dp example`), by DP-SGD on Poisson batches of all examples. It
writes the same record as a simulation, with epochs for rounds. A private run has one account, that
of a single device which holds everything and takes part once, in all epochs: noise that decays goes
on falling from epoch to epoch, and each epoch is charged the noise of its own steps.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.options import RunOptions, client_of, model_of, population_of
from fedsim.environment import environment
from fedsim.errors import require
from fedsim.models import JointTagger
from fedsim.plan import FinishedRound
from fedsim.population import Examples, Population
from fedsim.population.examples import concatenate
from fedsim.privacy import LocalSteps
from fedsim.privacy.example_spent import ExamplePrivacy, account
from fedsim.probes import standard_probes
from fedsim.record import Run, Writer
from fedsim.record.contents import device_arrays, start_contents, summary_contents
from fedsim.rng import stream
from fedsim.training import DPSGD, AdamW, LocalProcedure, private_procedures
from fedsim.training.batches import shuffled, steps_of, tensors
from fedsim.training.poisson import poisson_batches
from fedsim.training.precision import in_precision
from fedsim.training.scoring import Scorer

EPOCHS, BATCH_SIZE, LEARNING_RATE = 20, 32, 2e-3

PRIVATE_BATCH_SIZE = 256
"""Expected examples of a private step: noise is added once a step, so large batches drown less."""

FILLED_TO = 32
"""Private batches are filled up to a multiple of it. Equal shapes buy nothing here, and filling
up to twice the expected size would double the time of a step."""


def run_central(
    options: RunOptions,
    out: Path | str | None,
    epochs: int | None = None,
) -> Run:
    """Train centrally for 20 epochs, by AdamW (rate 0.002, batches of 32) or privately.

    Args:
      options: their corpus, model and seed are used, and with `dp="example"` the options of its
        noise and the learning rate; a target epsilon is that of the last epoch.
      out: a new folder for the record, or None.
      epochs: passes over all data, >= 1; default 20.

    Raises:
      ConfigError: the privacy, the corpus or the folder is refused; nothing is left on disk.
    """
    require(
        options.dp in ("none", "example"),
        f"dp is {options.dp!r}, but central training has no devices; choose none or example",
    )
    require(
        options.max_participations is None,
        f"max_participations is {options.max_participations}, but central training has no devices; "
        "leave it out",
    )
    epochs = EPOCHS if epochs is None else epochs
    require(epochs >= 1, f"epochs is {epochs}; choose 1 or more")
    client_of(_bounded(options))
    writer = Writer(out)
    threads = torch.get_num_threads()
    # As on devices: each kernel on one thread, so that sums do not depend on the machine.
    torch.set_num_threads(1)
    try:
        return _run_central(options, epochs, writer)
    except BaseException:
        writer.discard()
        raise
    finally:
        torch.set_num_threads(threads)


def _run_central(options: RunOptions, epochs: int, writer: Writer) -> Run:
    recipe = asdict(options) | {"epochs": epochs}
    config = {
        **recipe,
        "selection": "central",
        "selection_label": "central",
        "weighting": "none",
        "rounds": epochs,
        "central": _method(options),
        "recipe": recipe,
        "environment": environment(),
    }
    writer.config(config)
    people = population_of(options)
    model = model_of(options, people)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    scorer, probes = Scorer(model, people.test), standard_probes(people, every=1)
    everything = all_training_examples(people)
    training = _Training.of(options, epochs, model, people, everything)
    privacy = training.privacy
    assumptions = []
    if privacy is not None:
        assumptions = [_ASSUMPTION.format(privacy.ledger.delta), *privacy.caveats]
    resolved = None if privacy is None else privacy.resolved
    start = start_contents(people, parameters, scorer(parameters), assumptions, resolved)
    devices = device_arrays(people)
    writer.start(start, devices)

    procedure = training.procedure
    state = procedure.start(parameters, stream(options.seed, "example-noise"))
    began = time.perf_counter()
    for epoch in range(1, epochs + 1):
        tick = time.perf_counter()
        state |= {"loss": 0.0, "seen": 0.0}
        if privacy is not None:
            steps = privacy.local.steps(len(everything)) // epochs
            rate = privacy.local.rate(len(everything))
            privacy.spend(0, (epoch - 1) * steps, steps, rate)
        for batch in training.batches(everything, stream(options.seed, "central", epoch)):
            state = procedure.step(state, batch)
        parameters = {name: p.clone() for name, p in procedure.finish(state).items()}
        nobody = np.zeros(0, np.int64)
        finished = FinishedRound(
            round=epoch,
            period=0,
            last=epoch == epochs,
            plan=None,
            cohort=nobody,
            arrived=nobody,
            examples=len(everything),
            failures=(),
            train_loss=float(state["loss"] / state["seen"]) if state["seen"] else None,
            parameters=parameters,
            score=partial(scorer, parameters),
        )
        figures = {key: value for probe in probes for key, value in probe(finished).items()}
        figures |= {} if privacy is None else privacy(finished)
        writer.round(finished, time.perf_counter() - tick, figures)
    seconds = time.perf_counter() - began
    summary = summary_contents(writer.rounds, parameters, seconds, options.seed)
    files = {} if privacy is None else privacy.files()
    return Run(
        path=writer.path,
        config=config,
        start=start,
        rounds=writer.rounds,
        cohorts=writer.finish(parameters, summary, files),
        summary=summary,
        devices=devices,
        parameters=parameters,
        files=files,
    )


_ASSUMPTION = (
    "example-level epsilons are at delta {:g}; neighbours differ in the content of one example, "
    "and the number of all examples is treated as public"
)


def _method(options: RunOptions) -> dict[str, Any]:
    """How it is trained, for config.json."""
    if options.dp == "none":
        return {
            "optimizer": AdamW.__name__,
            "learning_rate": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
        }
    return {
        "optimizer": DPSGD.__name__,
        "learning_rate": options.learning_rate,
        "batch_size": PRIVATE_BATCH_SIZE,
    }


@dataclass(frozen=True, kw_only=True)
class _Training:
    """A procedure, its batches of one epoch, and the account where it is private."""

    procedure: LocalProcedure
    batches: Callable[[Examples, np.random.Generator], Iterator[dict[str, torch.Tensor]]]
    privacy: ExamplePrivacy | None = None

    @staticmethod
    def of(
        options: RunOptions,
        epochs: int,
        model: JointTagger,
        people: Population,
        everything: Examples,
    ) -> "_Training":
        """What the options ask for."""
        if options.dp == "none":
            losses = in_precision(model.losses, options.precision)
            ordinary = AdamW(losses=losses, learning_rate=LEARNING_RATE)
            return _Training(procedure=ordinary, batches=_shuffled_batches)
        client = client_of(_bounded(options))
        assert client.privacy is not None
        local = LocalSteps(batch_size=PRIVATE_BATCH_SIZE, local_epochs=epochs)
        examples = len(everything)
        parameters = dict(model.named_parameters())
        sized = client.privacy.sized_for(parameters, client.precision)
        mechanism = sized.resolved(np.array([examples]), examples, local)
        made = private_procedures(
            mechanism, model, client.rate(model), PRIVATE_BATCH_SIZE, client.dp_backend
        )
        return _Training(
            procedure=made(0.0),
            batches=private_batches,
            privacy=account(mechanism, local, people, devices=1),
        )


def _bounded(options: RunOptions) -> RunOptions:
    """Options whose one device takes part once, in all epochs."""
    return replace(options, max_participations=1 if options.dp == "example" else None)


def _shuffled_batches(
    everything: Examples, draw: np.random.Generator
) -> Iterator[dict[str, torch.Tensor]]:
    steps = steps_of(len(everything), BATCH_SIZE, 1, None)
    for indices in shuffled(len(everything), BATCH_SIZE, steps, draw):
        yield tensors(everything, indices)


def private_batches(
    everything: Examples, draw: np.random.Generator
) -> Iterator[dict[str, torch.Tensor]]:
    """Logical batches of one epoch of private training, in the form in which it works on them."""
    return poisson_batches(
        everything,
        batch_size=PRIVATE_BATCH_SIZE,
        steps=LocalSteps(batch_size=PRIVATE_BATCH_SIZE).steps(len(everything)),
        physical_size=FILLED_TO,
        draw=draw,
    )


def all_training_examples(people) -> Examples:
    """Every device's training examples, device by device."""
    return concatenate([people.train(device) for device in range(people.devices)])
