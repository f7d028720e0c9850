"""What does a round cost beside the training itself, and what does it cost elsewhere?

Candidates train the same devices on the same batches with the same number of threads, in turns, a
round of each, because machines differ and drift: only ratios are to be relied upon. Other
simulators take their turns in processes of their own, train the cohorts of FedAvg, and are compared
with a simulation that runs right before them, or right after in every other repeat.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.bench_candidates import (
    BARE_FEDAVG,
    BARE_SELECTIVE,
    FEDAVG,
    PLAIN_FEDAVG,
    PLAIN_SELECTIVE,
    PROBED,
    RECORDED,
    SELECTIVE,
    Candidates,
)
from experiments.bench_peers import PFL, RAY, RAY_APP, WARM_UP, PeerError, installed
from experiments.bench_result import (
    Benchmark,
    Budget,
    Measurement,
    interval_of_rounds,
    ratio_of_rounds,
)
from experiments.bench_workload import Workload
from experiments.turns import in_turns
from fedsim.errors import require

LOOPS = {FEDAVG: (BARE_FEDAVG, PLAIN_FEDAVG), SELECTIVE: (BARE_SELECTIVE, PLAIN_SELECTIVE)}
"""What a round of the simulation may take at most LOOP_BUDGET of."""

LOOP_BUDGET = 1.10

PEERS = {RAY: 1 / 4.5, RAY_APP: 1 / 4.5, PFL: 1.0}
"""What a round of LocalGrid may take, of the same one of another simulator. Flower's share was set
by its older `run_simulation`; both ways of starting it are held to it."""

AGAINST = {
    PLAIN_FEDAVG: FEDAVG,
    FEDAVG: BARE_FEDAVG,
    PLAIN_SELECTIVE: SELECTIVE,
    SELECTIVE: BARE_SELECTIVE,
    PROBED: SELECTIVE,
    RECORDED: SELECTIVE,
}
"""What each line of this process is compared with."""


def bench_round(
    *,
    rounds: int = 8,
    repeats: int = 5,
    workers: int | None = None,
    pfl_python: Path | None = None,
    workload: Workload = Workload(),  # noqa: B008
) -> Benchmark:
    """Time rounds of the reference workload.

    Args:
      rounds: timed rounds a candidate and repeat; two before them warm up and one after them, which
        every simulation measures, is not timed.
      repeats: turns every candidate gets.
      workers: threads that train; 0 trains in the calling thread; None is one a core.
      pfl_python: an interpreter that has `pfl[pytorch]`; None leaves pfl-research out.
      workload: how much is trained.

    Raises:
      ConfigError: there is nothing to time, or nothing to time it with.
    """
    require(rounds >= 1, f"rounds is {rounds}; choose 1 or more")
    require(repeats >= 1, f"repeats is {repeats}; choose 1 or more")
    require(
        pfl_python is None or os.access(pfl_python, os.X_OK),
        f"pfl_python is {pfl_python}, which cannot be run; name an interpreter with pfl[pytorch]",
    )
    workers = (os.cpu_count() or 1) if workers is None else workers
    with TemporaryDirectory() as folder:
        file = Path(folder) / "workload.npz"
        own = Candidates(workload, WARM_UP + rounds + 1, workers, file)
        peers, notes = installed(workers, pfl_python, Path(folder))
        timed = slice(WARM_UP, WARM_UP + rounds)
        seconds: dict[str, list[list[float]]] = {}
        expected = {name: own.examples(name)[timed] for name in own.candidates}

        def alone() -> list[float]:
            return in_turns({FEDAVG: own.candidates[FEDAVG]}, own.rounds)[FEDAVG][timed]

        for repeat in range(repeats):
            for name, taken in in_turns(own.candidates, own.rounds).items():
                seconds.setdefault(name, []).append(taken[timed])
            for peer in list(peers):
                before = alone() if repeat % 2 == 0 else None
                try:
                    taken = peer.run(file, rounds, expected[FEDAVG])
                except PeerError as error:
                    peers.remove(peer)
                    for name in (peer.name, _beside(peer.name)):
                        seconds.pop(name, None)
                    notes.append(f"{peer.name} failed: it {error}")
                    continue
                seconds.setdefault(_beside(peer.name), []).append(before or alone())
                seconds.setdefault(peer.name, []).append(taken)
    lines = {
        name: Measurement(
            name=name,
            seconds=each,
            examples=[expected.get(name, expected[FEDAVG])] * len(each),
        )
        for name, each in seconds.items()
    }
    return Benchmark(
        name="round",
        settings={"rounds": rounds, "repeats": repeats, "workers": workers, **vars(workload)},
        measurements=[_compared(line, lines) for line in lines.values()],
        budgets=[*_loop_budgets(lines), *_peer_budgets(lines)],
        notes=notes,
    )


def _beside(peer: str) -> str:
    """The line of the simulation that runs right before a peer, or right after it."""
    return f"{FEDAVG}, beside {peer}"


def _compared(line: Measurement, lines: Mapping[str, Measurement]) -> Measurement:
    """A line with its ratio."""
    against = AGAINST.get(line.name, _beside(line.name))
    if against not in lines:
        return line
    return replace(line, ratio=ratio_of_rounds(line, lines[against]), against=against)


def _loop_budgets(lines: Mapping[str, Measurement]) -> list[Budget]:
    return [
        _budget(name, loop, lines[name], lines[loop], LOOP_BUDGET)
        for name, loops in LOOPS.items()
        for loop in loops
    ]


def _peer_budgets(lines: Mapping[str, Measurement]) -> list[Budget]:
    budgets = []
    for peer, budget in PEERS.items():
        name = next((name for name in lines if name.startswith(peer)), None)
        beside = None if name is None else lines[_beside(name)]
        budgets.append(_budget(FEDAVG, peer, beside, lines.get(name or ""), budget))
    return budgets


def _budget(
    name: str, other: str, line: Measurement | None, base: Measurement | None, budget: float
) -> Budget:
    """What a line may take of another, of which one may be missing."""
    if line is None or base is None:
        return Budget(name=f"{name} / {other}", value=None, budget=budget)
    return Budget(
        name=f"{name} / {other}",
        value=ratio_of_rounds(line, base),
        budget=budget,
        interval=interval_of_rounds(line, base),
    )
