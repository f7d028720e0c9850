"""Real SuperNodes on loopback train what one process trains, and may be lost and return."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from same_rounds import assert_same_rounds

from experiments.flower_run import run_config
from experiments.options import RunOptions
from experiments.processes import descendants, running, stop
from experiments.recipe import run_recipe
from experiments.superlink import superlink
from fedsim import load_run
from fedsim.faults import Faults
from fedsim.record import Run

ROOT = Path(__file__).parents[2]
PARTS = 3
LOST = 2
"""The part whose node is killed."""


class Nodes:
    """A SuperLink with a SuperNode for each part of the devices.

    Args:
      home: a new folder, which also gets a log of every node.
      stack: stops whatever is started here.
    """

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self._home, self._stack = home, stack
        self._environment = stack.enter_context(superlink(home))
        config = (home / "config.toml").read_text()
        self._address = config.partition('address = "')[2].partition('"')[0]
        self._ports = [_free_port() for _ in range(PARTS)]
        self._nodes = [self._start(part) for part in range(PARTS)]

    def said(self, who: str) -> str:
        """The log of `node-PART` or of the `run`."""
        return (self._home / f"{who}.log").read_text()

    def kill(self, part: int) -> None:
        """End the node of a part as a crash of its machine would; what it started ends with it."""
        started = descendants(self._nodes[part].pid)
        self._nodes[part].kill()
        self._nodes[part].wait()
        _wait_until(lambda: not running(started), seconds=60)

    def restart(self, part: int) -> None:
        """Start the node of a part again, with the very same command."""
        self._nodes[part] = self._start(part)

    @contextmanager
    def run(self, options: RunOptions, out: Path) -> Iterator[subprocess.Popen]:
        """`flwr run` of options, while the block lasts."""
        config = run_config(options, out)
        said = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        words = ["flwr", "run", str(ROOT), "--stream", "--run-config", said]
        with (self._home / "run.log").open("w") as log:
            flwr = subprocess.Popen(
                words, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield flwr
        finally:
            stop(flwr)

    def _start(self, part: int) -> subprocess.Popen:
        words = ["--insecure", "--superlink", self._address, "--port", str(self._ports[part])]
        words += ["--node-config", f"partition-id={part} num-partitions={PARTS}"]
        with (self._home / f"node-{part}.log").open("a") as log:
            node = subprocess.Popen(
                ["flower-supernode", *words],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._stack.callback(stop, node)
        return node


@pytest.fixture
def nodes(tmp_path, monkeypatch) -> Iterator[Nodes]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = descendants(os.getpid())
    with ExitStack() as stack:
        yield Nodes(tmp_path / "home", stack)
    assert set(descendants(os.getpid())) <= set(before)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def finished(nodes: Nodes, out: Path) -> Run:
    """The run in a folder, or what Flower said where it has not come to an end."""
    assert (out / "summary.json").exists(), nodes.said("run")
    return load_run(out)


@pytest.mark.slow
def test_nodes_that_host_a_part_each_train_what_one_process_trains(nodes, tmp_path):
    options = RunOptions(devices=20, rounds=2, cohort=4, local_steps=2, leakage=True)
    with nodes.run(options, tmp_path / "run") as flwr:
        flwr.wait(timeout=500)
    there = finished(nodes, tmp_path / "run")
    assert_same_rounds(there, run_recipe(options, None))
    assert there.rounds[-1]["failures"] == 0


@pytest.mark.slow
def test_a_node_that_is_killed_costs_its_devices_the_rounds_until_it_is_back(
    nodes, tmp_path, monkeypatch
):
    # Every device is drawn in every round, and each has a node of its own.
    options = RunOptions(devices=PARTS, cohort=PARTS, rounds=5, local_steps=1, dp="both")
    with nodes.run(options, tmp_path / "run") as flwr:
        # Round 2 has begun, and its message has reached the node.
        _wait_until(lambda: nodes.said(f"node-{LOST}").count("Receiving: train") == 2, seconds=240)
        nodes.kill(LOST)
        nodes.restart(LOST)
        flwr.wait(timeout=500)
    there = finished(nodes, tmp_path / "run")
    lines = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    failures = [json.loads(line) for line in lines]
    assert {(f["device"], f["stage"]) for f in failures} == {(LOST, "unavailable")}
    rounds = [f["round"] for f in failures]
    assert rounds == list(range(2, 2 + len(rounds)))
    assert rounds[-1] < options.rounds
    # A lost node is a device that was unavailable, neither more nor less.
    lost = {(f["round"], f["device"]) for f in failures}
    monkeypatch.setattr(
        Faults,
        "fate",
        lambda self, seed, *, round, device: "unavailable" if (round, device) in lost else None,
    )
    here = run_recipe(replace(options, faults="unavailable=.5"), None)
    assert_same_rounds(there, here)
    # What was drawn is charged, whoever was lost.
    ledger = there.arrays("ledger")
    assert ledger["participations"].tolist() == [options.rounds] * PARTS
    for name, spent in here.arrays("ledger").items():
        np.testing.assert_array_equal(ledger[name], spent)
