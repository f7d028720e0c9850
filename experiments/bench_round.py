"""What does a round cost beside the training itself?

Candidates train the same devices on the same batches with the same number of threads, in turns,
several times over, in one process, because machines differ and drift: only ratios are to be relied
upon. The bare loop is what is left without a framework: local training on a pool of threads,
largest devices first, averaged by hand as results come in.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor

from experiments.bench_result import Benchmark, Budget, Measurement
from experiments.bench_workload import Workload
from fedsim.engine.flower import quiet
from fedsim.errors import require
from fedsim.models.joint import Parameters
from fedsim.record import Run
from fedsim.schedule import Static
from fedsim.simulation import Simulation
from fedsim.training import LocalResult
from strategies import Selective, UniformSelection

BUDGET = 1.10
"""A round of LocalGrid may take this much of a bare loop's."""

BARE_FEDAVG, BARE_SELECTIVE = "bare loop, cohorts of FedAvg", "bare loop, cohorts of Selective"
FEDAVG, SELECTIVE = "LocalGrid, FedAvg", "LocalGrid, Selective(FedAvg)"
PROBED = "LocalGrid, Selective(FedAvg), probes every round"

AGAINST = {FEDAVG: BARE_FEDAVG, SELECTIVE: BARE_SELECTIVE, PROBED: SELECTIVE}
"""What each line is compared with."""

SEED = 0


def bench_round(
    *,
    rounds: int = 8,
    repeats: int = 5,
    workers: int | None = None,
    workload: Workload = Workload(),  # noqa: B008
) -> Benchmark:
    """Time rounds of the reference workload.

    Args:
      rounds: timed rounds a candidate and repeat; one before them warms up and one after them,
        which every simulation measures, is not timed.
      repeats: turns every candidate gets.
      workers: threads that train; 0 trains in the calling thread; None is one a core.
      workload: how much is trained.

    Raises:
      ConfigError: there is nothing to time.
    """
    require(rounds >= 1, f"rounds is {rounds}; choose 1 or more")
    require(repeats >= 1, f"repeats is {repeats}; choose 1 or more")
    workers = (os.cpu_count() or 1) if workers is None else workers
    bench = _Candidates(workload, rounds + 2, workers)
    timed = slice(1, rounds + 1)
    seconds: dict[str, list[list[float]]] = {}
    for _ in range(repeats):
        for name, run in bench.candidates.items():
            seconds.setdefault(name, []).append(run()[timed])
    examples = {name: sum(bench.examples(name)[timed]) for name in seconds}
    medians = {name: np.median(each, axis=0).mean() for name, each in seconds.items()}
    # A line and what it is compared with run one after the other: drift touches both alike.
    ratios = {
        name: float(np.median(np.array(seconds[name]) / np.array(seconds[base])))
        for name, base in AGAINST.items()
    }
    return Benchmark(
        name="round",
        settings={"rounds": rounds, "repeats": repeats, "workers": workers, **vars(workload)},
        measurements=[
            Measurement(
                name=name,
                seconds=each,
                median=float(medians[name]),
                examples_per_second=float(examples[name] / rounds / medians[name]),
                ratio=ratios.get(name),
                against=AGAINST.get(name),
            )
            for name, each in seconds.items()
        ],
        budgets=[
            Budget(name=f"{name} / {AGAINST[name]}", value=ratios[name], budget=BUDGET)
            for name in (FEDAVG, SELECTIVE)
        ],
    )


class _Candidates:
    """Every candidate as a function that runs all rounds and returns the seconds of each."""

    def __init__(self, workload: Workload, rounds: int, workers: int) -> None:
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
        self.warm = {FEDAVG: self.simulate(self.fedavg), SELECTIVE: self.simulate(self.selective)}
        fedavg, selective = (cohorts_of(self.warm[name]) for name in (FEDAVG, SELECTIVE))
        self.candidates: dict[str, Callable[[], list[float]]] = {
            BARE_FEDAVG: lambda: self.bare(fedavg)[1],
            FEDAVG: lambda: seconds_of(self.simulate(self.fedavg)),
            BARE_SELECTIVE: lambda: self.bare(selective)[1],
            SELECTIVE: lambda: seconds_of(self.simulate(self.selective)),
            PROBED: lambda: seconds_of(self.simulate(self.selective, evaluate_every=1)),
        }

    def examples(self, name: str) -> list[int]:
        """Training examples of every round of a candidate."""
        run = self.warm[FEDAVG if name in (FEDAVG, BARE_FEDAVG) else SELECTIVE]
        return [line["cohort_examples"] for line in run.rounds]

    def simulate(self, strategy: Strategy, evaluate_every: int | None = None) -> Run:
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
        ).run(progress=False)

    def bare(self, cohorts: Sequence[np.ndarray]) -> tuple[Parameters, list[float]]:
        """Train the same cohorts without a framework: the final model, and seconds a round."""
        trainer = self.client.bind(self.people, self.model, SEED)
        activity = self.people.activity()
        parameters = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        threads, seconds = torch.get_num_threads(), []
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(max(1, self.workers)) as pool:
                for round, cohort in enumerate(cohorts, start=1):
                    began = time.perf_counter()
                    order = cohort[np.argsort(-activity[cohort], kind="stable")].tolist()

                    def train(device: int, sent=parameters, round=round):
                        return trainer.train(sent, device=device, period=0, round=round)

                    parameters = average(
                        pool.map(train, order) if self.workers else map(train, order)
                    )
                    seconds.append(time.perf_counter() - began)
        finally:
            torch.set_num_threads(threads)
        return parameters, seconds


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


def seconds_of(run: Run) -> list[float]:
    """Seconds of every round."""
    return [line["seconds"] for line in run.rounds]
