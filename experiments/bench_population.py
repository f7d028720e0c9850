"""Does a round cost more among a million devices than among a thousand?

As many devices are drawn from populations of `home` of several sizes and each trains one full
batch, so that the work is the same at every size; probes measure the last round alone, which is not
timed. Every size and repeat has a process of its own, so that its peak of memory is its own. A
round is taken with the record and the checkpoint that a real run writes; start-up stands apart.
"""

import multiprocessing
import os
import re
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from experiments.bench_candidates import cohorts_of, recorded
from experiments.bench_result import Benchmark, Budget, Measurement, ratio_of_rounds
from fedsim.engine.flower import quiet
from fedsim.errors import require
from fedsim.models import BiLSTMTagger
from fedsim.population.home import home
from fedsim.schedule import Static
from fedsim.simulation import Simulation
from strategies import ActivitySelection, SelectionPolicy, Selective, UniformSelection

SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""Devices of the populations."""

ROUND_BUDGET = 1.2
"""What a round among the most devices may take of one among the fewest."""

MEMORY_BUDGET = 2e9
"""Bytes that the process of any line may have at its peak (2 GB, not GiB)."""

BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class FullBatches:
    """Devices that hold a full batch take part as another policy says; the others never do.

    Attributes:
      policy: the other one, which sees only what these devices hold.
      examples: of a batch.

    Example:
      >>> policy = FullBatches(policy=ActivitySelection(cohort=1), examples=16)
      >>> policy.rates(np.array([15, 16, 48])).tolist()
      [0.0, 0.25, 0.75]
    """

    policy: SelectionPolicy
    examples: int

    @property
    def cohort(self) -> float:
        """The other policy's."""
        return self.policy.cohort

    @property
    def label(self) -> str:
        """The other policy's."""
        return self.policy.label

    @property
    def natural_weighting(self) -> str:
        """The other policy's."""
        return self.policy.natural_weighting

    def rates(self, activity: np.ndarray) -> np.ndarray:
        """Participation rates, shape (devices,)."""
        return self.policy.rates(np.where(activity >= self.examples, activity, 0))


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What one process runs.

    Attributes:
      devices: in all.
      policy: who takes part, of the devices that hold a full batch.
      rounds: timed ones.
      workers: threads that train; 0 trains in the calling thread.
      seed: of the run.
    """

    devices: int
    policy: SelectionPolicy
    rounds: int
    workers: int
    seed: int = 0

    @property
    def name(self) -> str:
        """That of the line."""
        return f"{self.devices:,} devices, {self.policy.label} selection"


class Taken(NamedTuple):
    """What it took.

    Attributes:
      seconds: (rounds,) wall-clock seconds of every timed round.
      cpu_seconds: (rounds,) seconds of processor time of all threads in it.
      examples: (rounds,) trained in it: a batch of every device.
      peak_bytes: most memory the process had.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    examples: list[int]
    peak_bytes: int


def bench_population(
    *,
    rounds: int = 8,
    repeats: int = 5,
    workers: int | None = None,
    sizes: Sequence[int] = SIZES,
    cohort: int = 256,
) -> Benchmark:
    """Time rounds among ever more devices.

    Args:
      rounds: timed rounds of each process; one before them warms up and one after them, which every
        simulation measures, is not timed.
      repeats: processes every line gets, in turns, each with a seed of its own.
      workers: threads that train; 0 trains in the calling thread; None is one a core.
      sizes: devices of each population, increasing.
      cohort: devices a round, exactly, where so many hold a full batch.

    Raises:
      ConfigError: there is nothing to time.
    """
    require(rounds >= 1, f"rounds is {rounds}; choose 1 or more")
    require(repeats >= 1, f"repeats is {repeats}; choose 1 or more")
    workers = (os.cpu_count() or 1) if workers is None else workers
    uniform = Rounds(
        devices=sizes[0], policy=UniformSelection(cohort=cohort), rounds=rounds, workers=workers
    )
    tasks = [replace(uniform, devices=size) for size in sizes]
    tasks.append(replace(tasks[-1], policy=ActivitySelection(cohort=cohort)))
    taken: dict[str, list[Taken]] = {task.name: [] for task in tasks}
    for repeat in range(repeats):
        for task in tasks:
            taken[task.name].append(_in_a_process(replace(task, seed=repeat)))
    lines = [_line(name, each) for name, each in taken.items()]
    return Benchmark(
        name="population",
        settings={
            "rounds": rounds,
            "repeats": repeats,
            "workers": workers,
            "cohort": cohort,
            "batch_size": BATCH_SIZE,
        },
        measurements=[lines[0], *(_against(line, lines[0]) for line in lines[1:])],
        budgets=_budgets(lines),
    )


def run_rounds(task: Rounds) -> Taken:
    """Run them in this process."""
    people = home(devices=task.devices)
    with quiet():
        policy = FullBatches(policy=task.policy, examples=BATCH_SIZE)
        strategy = Selective(FedAvg(), policy, draw="fixed")
    simulation = Simulation(
        population=people,
        model=BiLSTMTagger.sized_for(people),
        client=NLUClient(batch_size=BATCH_SIZE, local_steps=1),
        strategy=strategy,
        schedule=Static(rounds=task.rounds + 2),
        seed=task.seed,
        workers=task.workers,
        evaluate_every=task.rounds + 2,
    )
    # The first of them holds all that comes before it, too.
    moments = [(time.perf_counter(), time.process_time())]
    run = recorded(simulation, lambda: moments.append((time.perf_counter(), time.process_time())))
    seconds, cpu_seconds = np.diff(moments, axis=0).T.tolist()
    activity, timed = people.activity(), slice(1, task.rounds + 1)
    examples = [int(np.minimum(activity[c], BATCH_SIZE).sum()) for c in cohorts_of(run)]
    return Taken(seconds[timed], cpu_seconds[timed], examples[timed], peak_bytes())


def peak_bytes() -> int:
    """Most memory that this process has had so far."""
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:  # Not Linux: macOS counts in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss, which on Linux starts from that of the process this one was started by.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _in_a_process(task: Rounds) -> Taken:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(run_rounds, task).result()


def _line(name: str, taken: Sequence[Taken]) -> Measurement:
    return Measurement(
        name=name,
        seconds=[each.seconds for each in taken],
        cpu_seconds=[each.cpu_seconds for each in taken],
        examples=[each.examples for each in taken],
        peak_bytes=[each.peak_bytes for each in taken],
    )


def _against(line: Measurement, base: Measurement) -> Measurement:
    return replace(line, ratio=ratio_of_rounds(line, base), against=base.name)


def _budgets(lines: Sequence[Measurement]) -> list[Budget]:
    """The largest uniform line against the smallest, and everybody's memory."""
    fewest, most = lines[0], lines[-2]
    heaviest = max(lines, key=lambda line: max(line.peak_bytes or [0]))
    return [
        Budget(
            name=f"{most.name} / {fewest.name}",
            value=ratio_of_rounds(most, fewest),
            budget=ROUND_BUDGET,
        ),
        Budget(
            name=f"peak memory in GB, {heaviest.name}",
            value=max(heaviest.peak_bytes or [0]) / 1e9,
            budget=MEMORY_BUDGET / 1e9,
        ),
    ]
