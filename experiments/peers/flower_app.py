"""The apps that Flower's own simulation runs on the same devices: plain torch, FedAvg, timed.

    python -m experiments.peers.flower_app CORES

is a script as Flower's users write them: apps and `run_simulation` in one file. Ray sends the apps
of a script by value with every message, what they keep included, so that devices are read anew for
each of them; apps of a module that can be imported keep them (`experiments.peers.flower_ray`).
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from experiments.peers.tagger import Tagger, Task
from fedsim.rng import seeded_globals, torch_generator

client = ClientApp()
server = ServerApp()

VARIABLE = "FEDSIM_PEER"
"""Where the settings stand: Flower's older way of starting a simulation hands on no config."""


class Settings(NamedTuple):
    """What is run, for every process that Flower starts.

    Attributes:
      workload: the file.
      keep: whether an actor keeps its module; Flower's quickstart builds one for every message.
      rounds: in all.
      out: where the figures are written.
    """

    workload: str
    keep: bool
    rounds: int
    out: str

    def publish(self) -> None:
        """To this process and those that it starts."""
        os.environ[VARIABLE] = json.dumps(self._asdict())

    @classmethod
    def published(cls) -> "Settings":
        """Those of the process that started this one."""
        return cls(**json.loads(os.environ[VARIABLE]))


_kept: dict[str, Any] = {}
"""What an actor, which runs one message at a time, has from earlier ones."""


def loaded(path: str) -> Task:
    """The workload."""
    if "task" not in _kept:
        _kept["task"] = Task.load(path)
    return _kept["task"]


def kept(path: str) -> Tagger:
    """A module for all messages."""
    if "module" not in _kept:
        _kept["module"] = loaded(path).module()
    return _kept["module"]


@client.train()
def train(message: Message, context: Context) -> Message:
    """One epoch on the device that the message names."""
    torch.set_num_threads(1)
    settings = Settings.published()
    task = loaded(settings.workload)
    module = kept(settings.workload) if settings.keep else task.module()
    module.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    config = message.content.config_records["config"]
    round, device = (int(config[key]) for key in ("server-round", "device"))  # type: ignore[arg-type]
    loss = task.train(module, device, torch_generator(0, "peer/batches", round, device))
    examples = len(task.devices[device].intents)
    content = RecordDict(
        {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": examples}),
        }
    )
    return Message(content=content, reply_to=message)


class TimedFedAvg(FedAvg):
    """FedAvg on given cohorts; notes when rounds begin, and how many examples they trained."""

    cohorts: list[list[int]]
    begins: list[float]
    examples: list[int]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's, each for a device of the cohort: node ids do not say which device one is."""
        self.begins.append(time.perf_counter())
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message, device in zip(messages, self.cohorts[server_round - 1], strict=True):
            named = ConfigRecord({**config, "device": device})
            message.content = RecordDict({"arrays": arrays, "config": named})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """FedAvg's, counted."""
        heard = [reply for reply in replies if reply.has_content()]
        metrics = [reply.content.metric_records["metrics"] for reply in heard]
        self.examples.append(int(np.sum([each["num-examples"] for each in metrics])))
        return super().aggregate_train(server_round, heard)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write their seconds and examples as JSON."""
    settings = Settings.published()
    # Not among what is kept: Ray would send it to the actors of a script, with every message.
    task = Task.load(settings.workload)
    devices = len(task.devices)
    strategy = TimedFedAvg(
        fraction_train=len(task.cohorts[0]) / devices,
        fraction_evaluate=0.0,
        # Not one fewer, should a node be thought lost meanwhile.
        min_train_nodes=len(task.cohorts[0]),
        min_available_nodes=devices,
    )
    strategy.cohorts, strategy.begins, strategy.examples = task.cohorts, [], []
    with seeded_globals(0, "peer"):
        strategy.start(
            grid,
            ArrayRecord(task.initial()),
            num_rounds=settings.rounds,
        )
    ends = [*strategy.begins[1:], time.perf_counter()]
    seconds = [end - begin for begin, end in zip(strategy.begins, ends, strict=True)]
    measured = {"seconds": seconds, "examples": strategy.examples}
    Path(settings.out).write_text(json.dumps(measured), "utf-8")


if __name__ == "__main__":
    backend: dict[str, Any] = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": int(sys.argv[1])},
    }
    nodes = len(Task.load(Settings.published().workload).devices)
    run_simulation(server, client, nodes, backend_config=backend)
