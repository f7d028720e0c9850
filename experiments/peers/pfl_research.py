"""How long are the rounds of pfl-research on the same devices?

    python -m torch.distributed.run --nproc-per-node=2 -m experiments.peers.pfl_research FILE ROUNDS

prints one JSON line: seconds and examples of every round. One process a thread, joined by gloo;
users are dealt to processes by their size, as pfl-research advises. It runs in an environment of
its own, where fedsim cannot be imported.
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from itertools import chain, cycle

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

from experiments.peers.tagger import Tagger, Task


class Measured(Tagger):
    """The module with the metrics that pfl-research asks of one."""

    @torch.no_grad()
    def metrics(self, token_ids, intents, slots, **_):
        """The loss, weighted by examples."""
        count = len(intents)
        return {"loss": Weighted(float(self.loss(token_ids, intents, slots)) * count, count)}


class Clock(TrainingProcessCallback):
    """Notes when each round ended, and how many examples this process trained in it."""

    def __init__(self) -> None:
        self.served = 0
        self.ends = [time.perf_counter()]
        self.examples: list[int] = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """End of a round; training goes on."""
        self.ends.append(time.perf_counter())
        self.examples.append(self.served)
        self.served = 0
        return False, Metrics()


def main(path: str, rounds: int) -> None:
    """Train and print."""
    # A screen of figures a round would cost time and drown the result.
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    task, clock = Task.load(path), Clock()
    sizes = {user: len(device.intents) for user, device in enumerate(task.devices)}

    def dataset(user: int) -> Dataset:
        clock.served += sizes[user]
        return Dataset(raw_data=list(task.devices[user]), user_id=str(user))

    # Every process is told all users, round after round, and serves its share of them. It asks
    # for more of them than it needs.
    users = cycle(chain.from_iterable(task.cohorts))
    people = FederatedDataset(dataset, lambda: next(users), user_id_to_weight=sizes)
    module = Measured(*task.shape)
    module.load_state_dict(task.initial())
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            # Of all rounds the first alone: it is a warm-up.
            evaluation_frequency=rounds + 1,
            train_cohort_size=len(task.cohorts[0]),
            val_cohort_size=0,
        ),
        SimulatedBackend(people, people),
        model,
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=task.learning_rate,
            local_batch_size=task.batch_size,
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
    )
    report(np.diff(clock.ends).tolist(), clock.examples)


def report(seconds: Sequence[float], examples: Sequence[int]) -> None:
    """Print what all processes did, once."""
    trained, first = torch.tensor(examples), True
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(trained)
        first = torch.distributed.get_rank() == 0
        torch.distributed.destroy_process_group()
    if first:
        print(json.dumps({"seconds": list(seconds), "examples": trained.tolist()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
