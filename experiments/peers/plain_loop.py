"""The loop that a researcher would write, without any framework."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from experiments.peers.tagger import Tagger, Task
from fedsim.rng import torch_generator


def plain_loop(
    task: Task,
    cohorts: Sequence[np.ndarray],
    workers: int,
    lap: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Federated averaging by hand: `nn.Module`, `torch.optim.SGD`, `load_state_dict`, threads.

    Args:
      task: devices and the module.
      cohorts: device ids of every round.
      workers: threads, each with a module of its own; 0 trains in the calling thread.
      lap: called at the end of every round.

    Returns:
      The averaged state.
    """
    state = task.initial()
    modules: SimpleQueue[Tagger] = SimpleQueue()
    for _ in range(max(1, workers)):
        modules.put(task.module())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for round, cohort in enumerate(cohorts, start=1):

                def train(device: int, sent=state, round=round) -> tuple[int, dict[str, Tensor]]:
                    examples, module = len(task.devices[device].intents), modules.get()
                    module.load_state_dict(sent)
                    task.train(module, device, torch_generator(0, "peer/batches", round, device))
                    scaled = {name: p * examples for name, p in module.state_dict().items()}
                    modules.put(module)
                    return examples, scaled

                order = sorted(cohort.tolist(), key=lambda d: -len(task.devices[d].intents))
                total = {name: torch.zeros_like(p) for name, p in state.items()}
                examples = 0
                for count, scaled in pool.map(train, order) if workers else map(train, order):
                    examples += count
                    for name, p in scaled.items():
                        total[name] += p
                state = {name: p / examples for name, p in total.items()}
                lap()
    finally:
        torch.set_num_threads(threads)
    return state
