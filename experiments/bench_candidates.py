"""What does fedsim bench round time in this process, and on which devices?

The simulation under several strategies and settings, and two loops over the same cohorts without a
framework. The bare loop runs fedsim's own local training on a pool of threads, largest devices
first, and averages by hand as results come in: what is left over is what the framework costs. The
plain loop is what a researcher would write (`experiments.peers.plain_loop`).
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor

from experiments.bench_workload import Workload
from experiments.peers.plain_loop import plain_loop
from experiments.peers.tagger import Task
from experiments.turns import Candidate, Lap
from fedsim.engine.flower import quiet
from fedsim.models.joint import Parameters
from fedsim.plan import FinishedRound
from fedsim.record import Run
from fedsim.schedule import Static
from fedsim.simulation import Simulation
from fedsim.training import LocalResult
from strategies import Selective, UniformSelection

BARE_FEDAVG, BARE_SELECTIVE = "bare loop, cohorts of FedAvg", "bare loop, cohorts of Selective"
PLAIN_FEDAVG = "plain torch loop, cohorts of FedAvg"
PLAIN_SELECTIVE = "plain torch loop, cohorts of Selective"
FEDAVG, SELECTIVE = "LocalGrid, FedAvg", "LocalGrid, Selective(FedAvg)"
PROBED = "LocalGrid, Selective(FedAvg), probes every round"
RECORDED = "LocalGrid, Selective(FedAvg), record and checkpoint every round"

SEED = 0


class Candidates:
    """Every candidate as a function that runs all rounds and returns the seconds of each.

    Args:
      workload: how much is trained.
      rounds: of every candidate.
      workers: threads that train; 0 trains in the calling thread.
      file: where the workload is written for peers, with the cohorts of FedAvg.

    Attributes:
      candidates: by name, in the order in which they take turns; see `experiments.turns`.
      warm: a run of each kind of simulation, whose cohorts all candidates train.
    """

    def __init__(self, workload: Workload, rounds: int, workers: int, file: Path) -> None:
        self.people = workload.population()
        self.model = workload.model(self.people)
        self.client = workload.client()
        self.rounds, self.workers = rounds, workers
        with quiet():
            share = workload.cohort / workload.devices
            self.fedavg = FedAvg(fraction_train=share, fraction_evaluate=0.0, min_train_nodes=1)
            self.selective = Selective(
                FedAvg(), UniformSelection(cohort=workload.cohort), draw="fixed"
            )
        # Cohorts are drawn from the seed: what these runs trained, the timed ones train again.
        self.warm = {
            FEDAVG: self.simulation(self.fedavg).run(progress=False),
            SELECTIVE: self.simulation(self.selective).run(progress=False),
        }
        fedavg, selective = (cohorts_of(self.warm[name]) for name in (FEDAVG, SELECTIVE))
        workload.save(file, fedavg)
        self.task = Task.load(file)
        # A line and what it is compared with stand close together: drift touches both alike.
        self.candidates: dict[str, Candidate] = {
            PLAIN_FEDAVG: lambda lap: plain_loop(self.task, fedavg, workers, lap),
            FEDAVG: lambda lap: run(self.simulation(self.fedavg), lap),
            BARE_FEDAVG: lambda lap: self.bare(fedavg, lap),
            PLAIN_SELECTIVE: lambda lap: plain_loop(self.task, selective, workers, lap),
            SELECTIVE: lambda lap: run(self.simulation(self.selective), lap),
            BARE_SELECTIVE: lambda lap: self.bare(selective, lap),
            PROBED: lambda lap: run(self.simulation(self.selective, evaluate_every=1), lap),
            RECORDED: lambda lap: recorded(self.simulation(self.selective), lap),
        }

    def examples(self, name: str) -> list[int]:
        """Training examples of every round of a candidate."""
        same = (FEDAVG, BARE_FEDAVG, PLAIN_FEDAVG)
        run = self.warm[FEDAVG if name in same else SELECTIVE]
        return [line["cohort_examples"] for line in run.rounds]

    def simulation(
        self,
        strategy: Strategy,
        evaluate_every: int | None = None,
    ) -> Simulation:
        """A simulation; by default nothing is measured before its last round."""
        return Simulation(
            population=self.people,
            model=self.model,
            client=self.client,
            strategy=strategy,
            schedule=Static(rounds=self.rounds),
            seed=SEED,
            workers=self.workers,
            evaluate_every=evaluate_every or self.rounds,
        )

    def bare(self, cohorts: Sequence[np.ndarray], lap: Lap = lambda: None) -> Parameters:
        """Train the same cohorts without a framework: the final model."""
        trainer = self.client.bind(self.people, self.model, SEED)
        activity = self.people.activity()
        parameters = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(max(1, self.workers)) as pool:
                for round, cohort in enumerate(cohorts, start=1):
                    order = cohort[np.argsort(-activity[cohort], kind="stable")].tolist()

                    def train(device: int, sent=parameters, round=round):
                        return trainer.train(sent, device=device, period=0, round=round)

                    parameters = average(
                        pool.map(train, order) if self.workers else map(train, order)
                    )
                    lap()
        finally:
            torch.set_num_threads(threads)
        return parameters


def average(results: Iterable[LocalResult]) -> Parameters:
    """Parameters averaged over the examples of each device, summed up as they come in."""
    total, examples = dict[str, Tensor](), 0
    for result in results:
        examples += result.examples
        for name, p in result.parameters.items():
            if name in total:
                total[name].add_(p, alpha=result.examples)
            else:
                total[name] = p * result.examples
    return {name: p / examples for name, p in total.items()}


def cohorts_of(run: Run) -> list[np.ndarray]:
    """Device ids of every round."""
    return np.split(run.cohorts["drawn"], run.cohorts["drawn_offsets"][1:-1])


def run(simulation: Simulation, lap: Lap, folder: Path | None = None) -> Run:
    """Run a simulation, with a lap at the end of every round.

    Where there is a folder, the record and the checkpoint of a round belong to the next one.
    """

    def ended(finished: FinishedRound) -> dict[str, Any]:
        lap()
        return {}

    return replace(simulation, probes=[ended]).run(folder, progress=False)


def recorded(simulation: Simulation, lap: Lap) -> Run:
    """Run it with its record and a checkpoint every round in a temporary folder."""
    with TemporaryDirectory() as folder:
        return run(simulation, lap, Path(folder) / "run")
