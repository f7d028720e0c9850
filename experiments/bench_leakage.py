"""What share of a round does measuring its leakage take?

Rounds of the reference workload with a panel of 500 utterances, measured in every round on the
threads that train. Probes and rounds are timed inside the same simulations, so that a drifting
machine touches both alike. A run as short as these is audited in every round; in a long one, ten
rounds are.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from flwr.serverapp.strategy import FedAvg, Strategy

from experiments.bench_peers import WARM_UP
from experiments.bench_result import Benchmark, Budget, Measurement, ratio_of_rounds
from experiments.bench_workload import Workload
from fedsim.engine.flower import quiet
from fedsim.errors import require
from fedsim.leakage import Leakage, Panel, example_panel
from fedsim.plan import FinishedRound
from fedsim.population import Population
from fedsim.privacy.release import DeviceLevel
from fedsim.probes import Figures, Probe
from fedsim.schedule import Static
from fedsim.simulation import Simulation
from strategies import ActivitySelection, PrivateAggregation, Selective, UniformSelection

BUDGET = 0.30
"""What the probes may take of a round without them."""

OPEN, PRIVATE = "no privacy, uniform selection", "device-level DP, activity selection"
"""Without a claim; and with one, for devices that differ in it as much as they can."""

SEED = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Timed:
    """A probe that notes when it is called and when it is done.

    Attributes:
      probe: the other one.
      moments: of every call (started, ended), each (wall clock, processor time of all threads).
    """

    probe: Probe
    moments: list[tuple[tuple[float, float], tuple[float, float]]] = field(default_factory=list)

    def __call__(self, finished: FinishedRound) -> Figures:
        """The other's figures."""
        began = _now()
        figures = self.probe(finished)
        self.moments.append((began, _now()))
        return figures


class Taken(NamedTuple):
    """What the rounds of one simulation took, (rounds, 2): wall-clock and processor seconds.

    Attributes:
      rounds: all but the probe.
      probes: the probe.
    """

    rounds: np.ndarray
    probes: np.ndarray


def bench_leakage(
    *,
    rounds: int = 8,
    repeats: int = 5,
    workers: int | None = None,
    size: int = 500,
    workload: Workload = Workload(),  # noqa: B008
) -> Benchmark:
    """Time the leakage probe and the rounds it measures.

    Args:
      rounds: timed rounds of each simulation; two before them warm up.
      repeats: turns each simulation gets.
      workers: threads that train and score; 0 does both in the calling thread; None is one a core.
      size: utterances in the panel.
      workload: how much is trained.

    Raises:
      ConfigError: there is nothing to time.
    """
    require(rounds >= 1, f"rounds is {rounds}; choose 1 or more")
    require(repeats >= 1, f"repeats is {repeats}; choose 1 or more")
    workers = (os.cpu_count() or 1) if workers is None else workers
    people = workload.population()
    panel = example_panel(people, seed=SEED, size=size)
    taken: dict[str, list[Taken]] = {}
    for _ in range(repeats):
        for name, strategy in _strategies(workload.cohort).items():
            each = take(strategy, people, panel, workload, rounds, workers)
            taken.setdefault(name, []).append(each)
    lines = [_lines(name, each) for name, each in taken.items()]
    return Benchmark(
        name="leakage",
        settings={
            "rounds": rounds,
            "repeats": repeats,
            "workers": workers,
            "panel": size,
            **vars(workload),
        },
        measurements=[line for pair in lines for line in pair],
        budgets=[
            Budget(name=f"leakage probes / a round, {name}", value=probes.ratio, budget=BUDGET)
            for name, (_, probes) in zip(taken, lines, strict=True)
        ],
        notes=["every round is audited, and holds its bound against its claim"],
    )


def take(
    strategy: Strategy,
    people: Population,
    panel: Panel,
    workload: Workload,
    rounds: int,
    workers: int,
) -> Taken:
    """Run one simulation, and say what its timed rounds took."""
    model, schedule = workload.model(people), Static(rounds=WARM_UP + rounds + 1)
    timed = Timed(probe=Leakage(panel=panel, population=people, model=model, schedule=schedule))
    Simulation(
        population=panel.applied(people),
        model=model,
        client=workload.client(),
        strategy=strategy,
        schedule=schedule,
        seed=SEED,
        workers=workers,
        # Accuracy is measured in the last round alone, which is not timed.
        evaluate_every=schedule.rounds,
        probes=[timed],
    ).run(progress=False)
    moments = np.array(timed.moments)
    began, ended = moments[:, 0], moments[:, 1]
    kept = slice(WARM_UP, WARM_UP + rounds)
    return Taken(
        rounds=(began - np.concatenate([began[:1], ended[:-1]]))[kept],
        probes=(ended - began)[kept],
    )


def _strategies(cohort: int) -> dict[str, Strategy]:
    with quiet():
        private = PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0))
        return {
            OPEN: Selective(FedAvg(), UniformSelection(cohort=cohort), draw="fixed"),
            PRIVATE: Selective(private, ActivitySelection(cohort=cohort)),
        }


def _lines(name: str, taken: Sequence[Taken]) -> tuple[Measurement, Measurement]:
    """The rounds, and the probes with their share of a round."""
    rounds, probes = (
        Measurement(
            name=f"{what}, {name}",
            seconds=[each[:, 0].tolist() for each in seconds],
            cpu_seconds=[each[:, 1].tolist() for each in seconds],
        )
        for what, seconds in (
            ("all but leakage probes", [each.rounds for each in taken]),
            ("leakage probes", [each.probes for each in taken]),
        )
    )
    share = ratio_of_rounds(probes, rounds)
    return rounds, replace(probes, ratio=share, against=rounds.name)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
