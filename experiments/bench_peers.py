"""How fast are other simulators at the same work?

Each runs in processes of its own, on the workload's file, and prints one JSON line with the seconds
and the examples of every round. A peer that is not installed, or fails, is said and left out.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from experiments import peers
from experiments.peers.flower_ray import FORMS

WARM_UP = 2
"""First rounds that are not timed: actors start, kernels are chosen."""

MOST_SECONDS = 900
"""How long a peer may take for one repeat."""

RAY, PFL = "Flower on Ray, run_simulation", "pfl-research"

RAY_APP = "Flower on Ray, flwr run"
"""The same apps in an app folder, started as Flower recommends today; actors keep their devices."""

RAY_TUNED = "Flower on Ray with kept modules, flwr run"
"""Flower's quickstart builds a module for every message; who measures does without."""


class PeerError(Exception):
    """A peer did not come to its end; says what it said last."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another simulator.

    Attributes:
      name: its line's.
      command: what runs it; the workload's file and the number of rounds follow.
      path: folder its modules are imported from, or None for those of this process.
    """

    name: str
    command: Sequence[str]
    path: Path | None = None

    def run(self, workload: Path, rounds: int, expected: Sequence[int]) -> list[float]:
        """Run it once.

        Args:
          workload: the file `Workload.save` wrote.
          rounds: timed ones.
          expected: (rounds,) training examples of every timed round.

        Returns:
          Seconds of every timed round.

        Raises:
          PeerError: it failed, took too long, printed no figures, or did other work.
        """
        environment = dict(os.environ)
        if self.path is not None:
            environment |= {"PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*self.command, str(workload), str(rounds + WARM_UP)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Signals reach its whole group, and nobody else.
            start_new_session=True,
        )
        try:
            said, complained = process.communicate(timeout=MOST_SECONDS)
        except BaseException as stop:
            _end(process)
            if isinstance(stop, subprocess.TimeoutExpired):
                raise PeerError(f"was not done after {MOST_SECONDS} seconds") from None
            raise
        try:
            measured = json.loads(said.strip().splitlines()[-1])
            seconds = [float(each) for each in measured["seconds"][WARM_UP:]]
            examples = [int(each) for each in measured["examples"][WARM_UP:]]
        except (IndexError, KeyError, TypeError, ValueError):
            last = (complained.strip() or said.strip() or "nothing was said").splitlines()
            raise PeerError(f"ended with code {process.returncode}: {last[-1].strip()}") from None
        if examples != list(expected):
            raise PeerError(f"trained {examples} examples instead of {list(expected)}")
        return seconds


def installed(workers: int, pfl_python: Path | None, folder: Path) -> tuple[list[Peer], list[str]]:
    """Peers that can be run here, and a sentence for each that cannot.

    Args:
      workers: processes that may train at a time; at least one.
      pfl_python: an interpreter with `pfl[pytorch]`, or None.
      folder: a temporary one, which has to last as long as the peers are run.
    """
    found, notes, cores = [], [], max(1, workers)
    module = [sys.executable, "-m", "experiments.peers.flower_ray"]
    if find_spec("ray"):
        for name, form in zip((RAY, RAY_APP, RAY_TUNED), FORMS, strict=True):
            found.append(Peer(name=name, command=[*module, str(cores), form]))
    else:
        notes.append(f"{RAY} is left out: Ray is not installed; pip install 'flwr[simulation]'")
    if pfl_python is None:
        notes.append(f"{PFL} is left out: --pfl-python names no interpreter that has it")
    else:
        # Its environment must see these modules, and no other package of this one.
        shutil.copytree(Path(peers.__path__[0]), folder / "experiments" / "peers")
        processes = f"{cores} process{'es' if cores > 1 else ''}"
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={cores}"]
        script = ["-m", "experiments.peers.pfl_research"]
        command = [str(pfl_python), *launch, *script]
        found.append(Peer(name=f"{PFL}, {processes}", command=command, path=folder))
    return found, notes


def _end(process: subprocess.Popen) -> None:
    """End a peer and what it started: politely, then not."""
    for word, patience in ((signal.SIGTERM, 40), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, word)
            process.communicate(timeout=patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return
