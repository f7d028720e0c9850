"""From options to a finished run."""

from dataclasses import asdict
from pathlib import Path

from experiments.options import (
    RunOptions,
    client_of,
    model_of,
    population_of,
    schedule_of,
    strategy_of,
)
from fedsim.record import Run, check_free
from fedsim.simulation import Simulation


def build(options: RunOptions) -> Simulation:
    """The simulation that options describe; reads the corpus."""
    # Cheap things first, so that a bad option is refused before the corpus is read.
    client, strategy, schedule = client_of(options), strategy_of(options), schedule_of(options)
    population = population_of(options)
    return Simulation(
        population=population,
        model=model_of(options, population),
        client=client,
        strategy=strategy,
        schedule=schedule,
        seed=options.seed,
        workers=options.workers,
        evaluate_every=options.evaluate_every,
    )


def run_recipe(options: RunOptions, out: Path | str | None, progress: bool = True) -> Run:
    """Build and run; the record in `out` can be rebuilt from its own `config.json`.

    Raises:
      ConfigError: options that cannot be run, or a folder that already holds something.
    """
    if out is not None:
        check_free(Path(out))  # Before a corpus is read, which may take a while.
    return build(options).run(out, recipe=asdict(options), progress=progress)
