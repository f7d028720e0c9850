"""From options to a finished run."""

import shlex
import tempfile
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.options import (
    RunOptions,
    client_of,
    faults_of,
    model_of,
    panel_of,
    population_of,
    schedule_of,
    strategy_of,
    tracker_of,
)
from fedsim.environment import environment
from fedsim.errors import ConfigError, require
from fedsim.folder import begin, read_json, require_begun

if TYPE_CHECKING:
    from fedsim.record import Run
    from fedsim.simulation import Simulation


def build(options: RunOptions) -> "Simulation":
    """The simulation that options describe; reads the corpus."""
    from fedsim.simulation import Simulation

    # Cheap things first, so that a bad option is refused before the corpus is read.
    client, strategy, schedule = client_of(options), strategy_of(options), schedule_of(options)
    tracker = tracker_of(options)
    people = population_of(options)
    model, panel = model_of(options, people), panel_of(options, people)
    probes = []
    if panel is not None:
        from fedsim.leakage import Leakage

        probes.append(
            Leakage(
                panel=panel,
                population=people,
                model=model,
                schedule=schedule,
                every=options.leakage_every,
            )
        )
    return Simulation(
        population=people if panel is None else panel.applied(people),
        model=model,
        client=client,
        strategy=strategy,
        schedule=schedule,
        seed=options.seed,
        workers=options.workers,
        evaluate_every=options.evaluate_every,
        checkpoint_every=options.checkpoint_every,
        faults=faults_of(options),
        engine="batched" if options.engine == "batched" else "local",
        device=options.device,
        probes=probes,
        trackers=[] if tracker is None else [tracker],
    )


def run_recipe(
    options: RunOptions, out: Path | str | None, progress: bool = True, resume: bool = False
) -> "Run":
    """Build and run; the record in `out` can be rebuilt from its own `config.json`.

    Args:
      options: of the run.
      out: a new folder for the record; None keeps the record in memory.
      progress: show a progress bar on a terminal.
      resume: go on where the run in `out` stopped; begin it where there is none.

    Raises:
      ConfigError: options that cannot be run, or a folder that already holds something.
    """
    if options.engine == "flower":
        from experiments.flower_run import absolute

        options = absolute(options)
    require(
        out is not None or options.tracker != "tensorboard",
        "tracker is 'tensorboard', whose files go beside a run's record; name a folder with --out",
    )
    if out is None and options.engine == "flower":
        # Processes hand each other a record through a folder.
        with tempfile.TemporaryDirectory() as place:
            try:
                run = run_recipe(options, Path(place) / "run", progress)
            except KeyboardInterrupt:
                # Without the advice to go on from a folder that is about to go.
                raise KeyboardInterrupt from None
            return replace(run, path=None, parameters=run.model)
    if out is None:
        return build(options).run(recipe=asdict(options), progress=progress)
    if resume and (Path(out) / "config.json").is_file():
        return _go_on(options, Path(out), progress)
    # Before a corpus is read or anything heavy imported, both of which may take a while.
    recipe = asdict(options)
    folder = begin(out, {**recipe, "recipe": recipe, "environment": environment()})
    try:
        return _go_on(options, Path(out), progress)
    except Exception:
        # Unless rounds were finished, or another process has gone on with the run meanwhile.
        with suppress(ConfigError), folder.held():
            if not (folder.path / "rounds.jsonl").exists():
                folder.discard()
        raise


def resume(out: Path, progress: bool = True) -> "Run":
    """Go on where the run in a folder stopped; a finished one is read back.

    Raises:
      ConfigError: the folder holds no run, one that no options describe, or one of another version.
    """
    require_begun(out)
    config = read_json(out / "config.json")
    recipe = config.get("recipe")
    if recipe is None:
        raise ConfigError(
            f"{out} holds the run of a script; it goes on by the same script "
            f"with .run(out={str(out)!r}, resume=True)"
        )
    require(
        "central" not in config,
        f"{out} holds a model trained centrally, without rounds; "
        "give the command of its experiment again",
    )
    from fedsim.record.same import check_same

    versions = {"environment": environment()}
    check_same(out / "config.json", {"environment": config.get("environment", {})}, versions)
    known = {field.name for field in fields(RunOptions)}
    require(
        recipe.keys() == known,
        f"{out / 'config.json'} is of another version: its options differ by "
        f"{', '.join(sorted(recipe.keys() ^ known))}; run the simulation again into a new folder",
    )
    return _go_on(RunOptions(**recipe), out, progress)


def _go_on(options: RunOptions, out: Path, progress: bool) -> "Run":
    try:
        if options.engine == "flower":
            from experiments.flower_run import run_on_flower

            return run_on_flower(options, out, progress)
        simulation = build(options)
        return simulation.run(out, resume=True, recipe=asdict(options), progress=progress)
    except KeyboardInterrupt as stop:
        stop.add_note(f"fedsim resume {shlex.quote(str(out))} goes on from there")
        raise
