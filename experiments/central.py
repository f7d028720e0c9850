"""How good would the model be if all devices' data were in one place?

The upper end of every comparison: the same model on the same training examples, by AdamW on
shuffled batches. It writes the same record as a simulation, with epochs for rounds.
"""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from experiments.options import RunOptions, model_of, population_of
from fedsim.environment import environment
from fedsim.plan import FinishedRound
from fedsim.population import Examples
from fedsim.population.examples import concatenate
from fedsim.probes import standard_probes
from fedsim.record import Run, Writer
from fedsim.record.contents import device_arrays, start_contents, summary_contents
from fedsim.rng import stream
from fedsim.training import AdamW
from fedsim.training.batches import shuffled, steps_of, tensors
from fedsim.training.scoring import Scorer

EPOCHS, BATCH_SIZE, LEARNING_RATE = 20, 32, 2e-3


def run_central(options: RunOptions, out: Path | str | None) -> Run:
    """Train centrally for 20 epochs of AdamW (rate 0.002, batches of 32).

    Args:
      options: their corpus, model and seed are used.
      out: a new folder for the record, or None.

    Raises:
      ConfigError: the corpus or the folder is refused; nothing is left on disk.
    """
    writer = Writer(out)
    threads = torch.get_num_threads()
    # As on devices: each kernel on one thread, so that sums do not depend on the machine.
    torch.set_num_threads(1)
    try:
        return _run_central(options, writer)
    except BaseException:
        writer.discard()
        raise
    finally:
        torch.set_num_threads(threads)


def _run_central(options: RunOptions, writer: Writer) -> Run:
    recipe = asdict(options)
    config = {
        **recipe,
        "selection": "central",
        "selection_label": "central",
        "weighting": "none",
        "rounds": EPOCHS,
        "central": {
            "optimizer": AdamW.__name__,
            "learning_rate": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
        },
        "recipe": recipe,
        "environment": environment(),
    }
    writer.config(config)
    people = population_of(options)
    model = model_of(options, people)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    scorer, probes = Scorer(model, people.test), standard_probes(people, every=1)
    start = start_contents(people, parameters, scorer(parameters))
    devices = device_arrays(people)
    writer.start(start, devices)

    everything = all_training_examples(people)
    steps = steps_of(len(everything), BATCH_SIZE, 1, None)
    procedure = AdamW(losses=model.losses, learning_rate=LEARNING_RATE)
    state = procedure.start(parameters)
    began = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        tick = time.perf_counter()
        state |= {"loss": 0.0, "seen": 0.0}
        draw = stream(options.seed, "central", epoch)
        for indices in shuffled(len(everything), BATCH_SIZE, steps, draw):
            state = procedure.step(state, tensors(everything, indices))
        parameters = {name: p.clone() for name, p in procedure.finish(state).items()}
        nobody = np.zeros(0, np.int64)
        finished = FinishedRound(
            round=epoch,
            period=0,
            last=epoch == EPOCHS,
            plan=None,
            cohort=nobody,
            arrived=nobody,
            examples=len(everything),
            failures=(),
            train_loss=float(state["loss"] / state["seen"]),
            parameters=parameters,
            score=partial(scorer, parameters),
        )
        figures = {key: value for probe in probes for key, value in probe(finished).items()}
        writer.round(finished, time.perf_counter() - tick, figures)
    seconds = time.perf_counter() - began
    summary = summary_contents(writer.rounds, parameters, seconds, options.seed)
    return Run(
        path=writer.path,
        config=config,
        start=start,
        rounds=writer.rounds,
        cohorts=writer.finish(parameters, summary, {}),
        summary=summary,
        devices=devices,
        parameters=parameters,
    )


def all_training_examples(people) -> Examples:
    """Every device's training examples, device by device."""
    return concatenate([people.train(device) for device in range(people.devices)])
