"""How long does it take to keep and read every device's privacy account over a whole run?

A ledger is charged round by round, with rates that change from period to period, and read twenty
times: the claims of a round's line, exact epsilons of the worst and the median device. Every repeat
has a process of its own and does it twice: cold, with nothing computed before, and warm, as in the
second of several runs alike. Nobody trains, nothing waits and one thread computes: seconds are
processor time, which is what a clock shows where nothing else runs. Only the line whose seconds
have a budget is repeated: the others take far longer, and their memory hardly varies.
"""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from experiments.bench_population import peak_bytes
from experiments.bench_result import Benchmark, Budget, Measurement
from fedsim.errors import require
from fedsim.privacy import DeviceLedger, DeviceSum, Gaussian
from fedsim.rng import stream

COLD_BUDGET, WARM_BUDGET = 10.0, 2.0
"""Seconds that 10,000 devices may take with at most 256 distinct histories."""

MEMORY_BUDGET = 2e9
"""Bytes that a process may need with very many devices, the ledger's among them."""

COHORT = 100
"""Expected devices a round."""

SIGMA, DELTA = 1.0, 1e-7


@dataclass(frozen=True, kw_only=True)
class Charges:
    """What a ledger is charged with, and how often it is read.

    Attributes:
      devices: in all.
      rounds: in all periods.
      histories: distinct ones, at most; None lets every device have its own.
      periods: rates change between them.
      readings: rounds whose figures are computed, evenly spaced, the last among them.
    """

    devices: int
    rounds: int
    histories: int | None
    periods: int = 5
    readings: int = 20

    @property
    def name(self) -> str:
        """That of the line."""
        kinds = "any" if self.histories is None else f"{self.histories}"
        return f"{self.devices:,} devices x {self.rounds:,} rounds, {kinds} histories"

    def rates(self, period: int) -> np.ndarray:
        """Participation rates, log-normal over histories as activity is, shape (devices,)."""
        kinds = min(self.devices, self.histories or self.devices)
        activity = np.exp(stream(0, "ledger-activity", period).standard_normal(kinds))
        scores = activity[np.arange(self.devices) % kinds]
        return np.minimum(1.0, COHORT * scores / scores.sum())


class Taken(NamedTuple):
    """What it took.

    Attributes:
      cold: processor seconds of the first time.
      warm: seconds of the second.
      peak_bytes: most memory the process had.
    """

    cold: float
    warm: float
    peak_bytes: int


def bench_ledger(
    *,
    rounds: int = 1000,
    repeats: int = 5,
    devices: int = 10_000,
    many_devices: int = 1_000_000,
) -> Benchmark:
    """Time ledgers of few and of many distinct histories, and of very many devices.

    Args:
      rounds: in a ledger's history, at least 200; a tenth of them where devices are very many.
      repeats: processes of the first line, whose seconds have a budget; the others get one each.
      devices: of the lines whose seconds have a budget.
      many_devices: of the last lines, whose memory has one.

    Raises:
      ConfigError: there is nothing to time.
    """
    require(
        rounds >= 200, f"rounds is {rounds}; a tenth of them is read 20 times, choose 200 or more"
    )
    require(repeats >= 1, f"repeats is {repeats}; choose 1 or more")
    few = Charges(devices=devices, rounds=rounds, histories=256)
    tasks = [few, replace(few, histories=None)]
    tasks.append(replace(few, devices=many_devices, rounds=rounds // 10))
    taken: dict[str, list[Taken]] = {}
    for task, times in zip(tasks, (repeats, 1, 1), strict=True):
        taken[task.name] = [_in_a_process(task) for _ in range(times)]
    lines = [line for name, each in taken.items() for line in _lines(name, each)]
    return Benchmark(
        name="ledger",
        settings={"rounds": rounds, "repeats": repeats, "readings": few.readings, "cohort": COHORT},
        measurements=lines,
        budgets=[
            *(
                Budget(name=f"seconds, {line.name}", value=line.median, budget=budget)
                for line, budget in zip(lines, (COLD_BUDGET, WARM_BUDGET), strict=False)
            ),
            Budget(
                name=f"peak memory in GB, {tasks[-1].name}",
                value=max(each.peak_bytes for each in taken[tasks[-1].name]) / 1e9,
                budget=MEMORY_BUDGET / 1e9,
            ),
        ],
        timed="a ledger of",
    )


def keep(charges: Charges) -> DeviceLedger:
    """Charge a new ledger and read it as often as asked."""
    ledger = DeviceLedger(charges.devices, DELTA)
    event = Gaussian(noise_multiplier=SIGMA)
    sums = [DeviceSum(event=event, rates=charges.rates(p)) for p in range(charges.periods)]
    for round in range(charges.rounds):
        planned = sums[round * charges.periods // charges.rounds]
        # Who is drawn does not change the work; a pure coin each would be most of it.
        cohort = stream(0, "ledger-cohort", round).integers(charges.devices, size=COHORT)
        ledger.charge(planned, np.unique(cohort))
        if (round + 1) * charges.readings // charges.rounds > (
            round * charges.readings // charges.rounds
        ):
            ledger.figures()
    return ledger


def take(charges: Charges) -> Taken:
    """Keep a ledger twice in this process."""
    ticks = [time.process_time()]
    for _ in range(2):
        keep(charges)
        ticks.append(time.process_time())
    return Taken(ticks[1] - ticks[0], ticks[2] - ticks[1], peak_bytes())


def _in_a_process(charges: Charges) -> Taken:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(take, charges).result()


def _lines(name: str, taken: Sequence[Taken]) -> list[Measurement]:
    peaks = [each.peak_bytes for each in taken]
    return [
        Measurement(name=f"{name}, {how}", seconds=[[s] for s in seconds], peak_bytes=peaks)
        for how, seconds in (
            ("cold", [each.cold for each in taken]),
            ("warm", [each.warm for each in taken]),
        )
    ]
