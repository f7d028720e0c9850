"""A simulation, and its one round loop: a round, the probes, the record, a checkpoint.

It is the same under every engine, policy, strategy and mechanism. Data goes round once per round
and never back: probes read, the record is written, and the next round sees only the new model.
What happens inside a round is `fedsim.round`.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.checks import check, prepare, surprises
from fedsim.describe import describe
from fedsim.engine.batched import BatchedGrid, torch_device
from fedsim.engine.exchange import Exchange
from fedsim.engine.flower import quiet, task_identity
from fedsim.engine.local import LocalGrid
from fedsim.engine.nodes import NodeGrid
from fedsim.errors import ConfigError, require
from fedsim.faults import Faults
from fedsim.models.joint import JointTagger
from fedsim.population import Population
from fedsim.privacy.account import Account
from fedsim.privacy.claim import reads_of
from fedsim.privacy.example_spent import ExamplePrivacy, example_privacy
from fedsim.privacy.spent import privacy_probe
from fedsim.probes import Observer, Probe, standard_probes
from fedsim.progress import Progress
from fedsim.record import Run, Writer, is_finished, load_run
from fedsim.record.checkpoint import Checkpoints
from fedsim.record.contents import (
    config_contents,
    device_arrays,
    start_contents,
    summary_contents,
)
from fedsim.record.run import Arrays
from fedsim.round import Round
from fedsim.schedule import Schedule
from fedsim.state import registry
from fedsim.tracking.feed import Feed, Tracker
from fedsim.training.chunks import planned
from fedsim.training.scoring import Scorer
from fedsim.training.trainer import LocalTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """One federated-learning simulation.

    Attributes:
      population: devices and their utterances.
      model: supplies losses and predictions; its parameters are where training starts.
      client: how a device trains (`clients.NLUClient`), or any Flower `ClientApp`.
      strategy: `strategies.Selective(...)`, or a bare Flower strategy, which then draws from all
        devices.
      schedule: `Static(rounds=...)` or `Continual(periods=..., rounds=..., keep=...)`.
      seed: every draw of the run follows from it.
      workers: threads that train devices; 0 trains them in the calling thread; None is one a core.
      evaluate_every: rounds between measurements; None measures about 20 times. The last round is
        always measured.
      probes: more probes, beside the standard ones; one that keeps state serves one run.
      checkpoint_every: rounds between checkpoints, which a run that was interrupted goes on from.
      faults: devices that fail, as `Faults(dropout=0.3)`; None leaves all of them well.
      engine: "local" trains devices one by one, "batched" many at a time as stacked tensors.
      device: where the batched engine computes: "cpu", "cuda", or "auto", a GPU where there is one.
      trackers: where else the run is shown as its record grows: `fedsim.tracking.TensorBoard()`,
        `MLflow()`; they change nothing in it.
    """

    population: Population
    model: JointTagger
    client: Any
    strategy: Strategy
    schedule: Schedule
    seed: int = 0
    workers: int | None = None
    evaluate_every: int | None = None
    probes: Sequence[Probe] = ()
    checkpoint_every: int = 1
    faults: Faults | None = None
    engine: Literal["local", "batched"] = "local"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trackers: Sequence[Tracker] = ()

    def __post_init__(self) -> None:
        every, workers, checkpoint = self.evaluate_every, self.workers, self.checkpoint_every
        require(checkpoint >= 1, f"checkpoint_every is {checkpoint}; choose 1 or more")
        require(every is None or every >= 1, f"evaluate_every is {every}; choose 1 or more")
        require(workers is None or workers >= 0, f"workers is {workers}; choose 0 (inline) or more")
        require(
            isinstance(self.faults, Faults | None),
            f"faults is {self.faults!r}; expected Faults(dropout=0.3), Faults.parse('dropout=.3') "
            "or None",
        )
        for name, value, known in (
            ("engine", self.engine, ("local", "batched")),
            ("device", self.device, ("auto", "cpu", "cuda")),
        ):
            require(value in known, f"{name} is {value!r}; choose one of {', '.join(known)}")
        require(
            self.device == "auto" or self.engine == "batched",
            f"device is {self.device!r}, but engine {self.engine!r} trains on the processor; "
            "leave it out, or choose engine 'batched'",
        )

    def run(
        self,
        out: str | Path | None = None,
        *,
        resume: bool = False,
        recipe: dict | None = None,
        progress: bool = True,
        grid: Grid | None = None,
    ) -> Run:
        """Run it to the end.

        Args:
          out: a new folder for the record; None keeps the record in memory.
          resume: go on where the run in `out` stopped, to the result it would have had; begin it
            where there is none, and read it back where it is finished.
          recipe: options this simulation was built from, for the record.
          progress: show a progress bar on a terminal.
          grid: of Flower's runtime, whose nodes host the devices; None trains them in this process.

        Raises:
          ConfigError: something does not fit together; before round 1, nothing is left on disk. Or
            the run in `out` is of another config, version or population.
        """
        writer = Writer(out, resume=resume)
        with writer.held():
            try:
                # Strategies keep state; each run has its own, so that one object serves many runs.
                fresh = replace(self, strategy=_copied(self.strategy))
                return fresh._run(writer, recipe, progress, grid)
            except KeyboardInterrupt as stop:
                if out is not None and recipe is None:
                    stop.add_note(f".run(out={str(out)!r}, resume=True) goes on from there")
                raise
            except BaseException:
                writer.discard()
                raise

    def _run(self, writer: Writer, recipe: dict | None, progress: bool, grid: Grid | None) -> Run:
        """Everything that can be refused, then the rounds."""
        config = config_contents(
            population=self.population.name,
            model=self.model,
            client=self.client,
            strategy=self.strategy,
            schedule=self.schedule,
            seed=self.seed,
            workers=self.workers,
            evaluate_every=self._every,
            probes=self.probes,
            faults=self.faults,
            engine={"name": self.engine, "device": self.device},
            recipe=recipe,
        )
        config = writer.config(config)
        people = self.population.cut(
            self.schedule.periods, self.schedule.by, self.schedule.retention
        )
        check(self.strategy, self.client, people)
        app, example, trainer = self.client, None, None
        if not isinstance(app, ClientApp):
            trainer = app.bind(people, self.model, self.seed)
            app = app.app(trainer)
            example = example_privacy(trainer, people, reads_of(self.strategy))
        delta = None if example is None else example.ledger.delta
        last = prepare(self.strategy, people, self.schedule, delta)
        workers = (os.cpu_count() or 1) if self.workers is None else self.workers
        with (
            quiet(),
            task_identity(),
            self._grid(app, trainer, people, workers, grid) as local,
        ):
            engine = local if grid is None else NodeGrid(grid, people)
            return self._rounds(people, engine, local.map, writer, config, progress, last, example)

    def _grid(
        self,
        app: ClientApp,
        trainer: LocalTrainer | None,
        people: Population,
        workers: int,
        runtime: Grid | None,
    ) -> LocalGrid:
        """The grid of this process."""
        if self.engine == "local":
            return LocalGrid(app, devices=people.devices, workers=workers)
        alone = None if isinstance(trainer, LocalTrainer) else type(trainer or app).__name__
        require(
            alone is None and runtime is None,
            "engine is 'batched', but "
            + (f"a {alone} trains one device at a time" if alone else "nodes train")
            + "; choose engine 'local'",
        )
        assert trainer is not None
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        plan = planned(trainer, parameters, torch_device(self.device))
        return BatchedGrid(app, trainer, plan, devices=people.devices, workers=workers)

    def _rounds(
        self,
        people: Population,
        grid: Grid,
        map: Callable,
        writer: Writer,
        config: dict,
        progress: bool,
        last: int,
        example: ExamplePrivacy | None,
    ) -> Run:
        """All rounds on an open grid; `map` scores on the threads of this process."""
        parameters = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        exchange = Exchange(
            faults=self.faults, seed=self.seed, client=self.client, people=people, example=example
        )
        account = Account.of(self.strategy, example)
        privacy = privacy_probe(self.strategy, people, example)
        measured = standard_probes(people, self._every)
        probes: list[Probe] = [*measured, privacy, exchange, *self.probes]
        plan = None
        if isinstance(grid, BatchedGrid):
            probes.append(grid.figures)
            plan = describe(grid.plan)
        one_round = Round(
            strategy=self.strategy,
            schedule=self.schedule,
            last=last,
            seed=self.seed,
            people=people,
            grid=grid,
            exchange=exchange,
            scorer=Scorer(self.model, people.test, map),
            dev_scorer=Scorer(self.model, people.dev, map),
            account=account,
            map=map,
            observers=[probe for probe in probes if isinstance(probe, Observer)],
        )
        untrained = one_round.scorer(parameters)
        assumptions = surprises(getattr(self.strategy, "policy", None), people)
        if last < self.schedule.rounds:
            assumptions.append(f"the run's privacy budget ends it after round {last}")
        assumptions += getattr(privacy, "assumptions", [])
        begun = {
            type(probe).__name__: probe.begin(account, last)
            for probe in self.probes
            if hasattr(probe, "begin")
        }
        resolved = getattr(privacy, "resolved", None)
        start = start_contents(people, parameters, untrained, assumptions, resolved, begun, plan)
        devices = device_arrays(people)
        start = writer.start(start, devices)
        if writer.path is not None and is_finished(writer.path):
            log.warning("the run in %s is finished; it is read back", writer.path)
            return load_run(writer.path)
        stateful = registry(self.strategy, grid, probes)
        with (
            Feed(self.trackers, writer.path, config) as feed,
            Checkpoints(writer, self.checkpoint_every, stateful) as checkpoints,
        ):
            done, parameters = checkpoints.restore(parameters)
            feed.rounds(writer.rounds)
            with Progress(last, done=done, shown=progress) as bar:
                for round in range(done + 1, last + 1):
                    tick = time.perf_counter()
                    finished = one_round(round, parameters)
                    parameters = finished.parameters
                    figures: dict[str, Any] = dict(finished.evaluated)
                    for probe in probes:
                        figures |= probe(finished)
                    line = writer.round(finished, time.perf_counter() - tick, figures)
                    bar.show(line)
                    feed.rounds([line])
                    checkpoints.keep(round, parameters, last=finished.last)
            summary = summary_contents(writer.rounds, parameters, checkpoints.seconds, self.seed)
            feed.end(summary)
        files: dict[str, Arrays] = {}
        for probe in probes:
            if hasattr(probe, "files"):
                files |= probe.files()
        cohorts = writer.finish(parameters, summary, files)
        return Run(
            path=writer.path,
            config=config,
            start=start,
            rounds=writer.rounds,
            summary=summary,
            cohorts=cohorts,
            devices=devices,
            parameters=parameters,
            files=files,
        )

    @property
    def _every(self) -> int:
        """Rounds between measurements."""
        return self.evaluate_every or max(1, self.schedule.rounds // 20)


def _copied(strategy: Strategy) -> Strategy:
    try:
        return deepcopy(strategy)
    except Exception as error:
        raise ConfigError(
            f"{type(strategy).__name__} cannot be copied for the run ({error}); "
            "let it hold numbers, text, arrays and functions alone"
        ) from None
