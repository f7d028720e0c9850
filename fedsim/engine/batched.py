"""Whole cohorts as stacks: every device with its own weights, many of them in one kernel.

Devices that are to train are sorted by how much they have to do and cut into chunks, and each chunk
is one stack. On a processor chunks run on the threads of the local engine; on an accelerator one
after another. Everything but training goes through the devices' app, as under the local engine.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from threading import Lock
from typing import Any

import torch
from flwr.app import Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engine.local import LocalGrid
from fedsim.engine.orders import Order, reply_with
from fedsim.errors import require
from fedsim.plan import FinishedRound
from fedsim.training.chunks import ChunkPlan
from fedsim.training.cohort import in_turn, train_together
from fedsim.training.trainer import LocalTrainer

log = logging.getLogger(__name__)

HALVED, APART = "engine/out_of_memory", "engine/one_by_one"
"""Figures of a round: how often a stack did not fit and was halved; devices trained one by one
because their stack failed."""


def torch_device(name: str) -> torch.device:
    """The torch device that `auto`, `cpu` or `cuda` stands for.

    Raises:
      ConfigError: there is no GPU that torch can use.

    Example:
      >>> torch_device("cpu")
      device(type='cpu')
    """
    found = torch.cuda.is_available()
    require(
        name != "cuda" or found,
        "device is 'cuda', but torch finds no GPU; choose 'cpu', or install a build of torch "
        "for CUDA",
    )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


class BatchedGrid(LocalGrid):
    """A local grid that trains its devices as stacks.

    A stack that does not fit into memory is halved, and so are all later ones; the run is then not
    reproducible to the bit. In a stack that fails, devices are trained one by one, so that only
    those to blame fail.

    Args:
      app: what a device does with messages of other types.
      trainer: what devices do when they train.
      plan: how many of them at once, and where.
      devices: number of devices.
      workers: threads, as of `LocalGrid`.

    Attributes:
      plan: as given.
    """

    def __init__(
        self, app: ClientApp, trainer: LocalTrainer, plan: ChunkPlan, *, devices: int, workers: int
    ) -> None:
        super().__init__(app, devices=devices, workers=workers)
        self.plan = plan
        self._trainer = trainer
        self._where = torch.device(plan.where)
        self._most = 0 if plan.one_by_one else plan.devices
        self._lock = Lock()
        self._counts = {HALVED: 0, APART: 0}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Train every addressed device, many at a time; one reply each, chunk by chunk."""
        messages = list(messages)
        training = [m for m in messages if m.metadata.message_type == MessageType.TRAIN]
        if not self._most or not training:
            return super().send_and_receive(messages, timeout=timeout)
        others = [m for m in messages if m.metadata.message_type != MessageType.TRAIN]
        # On an accelerator stacks follow each other: two at once would share its memory.
        run: Callable = self.map if self._where.type == "cpu" else map
        stacks = run(self._train, list(self._chunks(training)))
        return chain(chain.from_iterable(stacks), super().send_and_receive(others))

    def figures(self, finished: FinishedRound) -> dict[str, float]:
        """A probe: `engine/out_of_memory` and `engine/one_by_one`, in rounds that had them."""
        figures = {name: float(count) for name, count in self._counts.items() if count}
        self._counts = dict.fromkeys(self._counts, 0)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """What devices keep, and how many fit into a stack."""
        return {**super().state_dict(), "most": self._most}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give devices back what they kept, and go on with stacks that fit."""
        super().load_state_dict(state)
        self._most = state["most"]

    def _chunks(self, messages: list[Message]) -> Iterator[list[Message]]:
        """Messages with the same content, those to devices with as much to do side by side."""
        by_content: dict[int, dict[int, Message]] = {}
        for message in messages:
            same = by_content.setdefault(id(message.content), {})
            same[message.metadata.dst_node_id] = message
        for own in by_content.values():
            content = next(iter(own.values())).content
            turn = in_turn(self._trainer, list(own), Order.of(content).period)
            for start in range(0, len(turn), self._most):
                yield [own[device] for device in turn[start : start + self._most]]

    def _train(self, messages: list[Message]) -> list[Message]:
        """The replies of one chunk."""
        try:
            return self._stacked(messages[0].content, messages)
        except (MemoryError, torch.OutOfMemoryError) as error:
            full: Exception | None = error.with_traceback(None)
        except Exception as error:
            full = None
            level = logging.WARNING if self._is_new(error) else logging.DEBUG
            log.log(level, "a stack failed; its devices train one by one", exc_info=True)
        # Out of the handlers, which keep the failed stack's tensors alive.
        if full is None or len(messages) == 1:
            with self._lock:
                self._counts[APART] += len(messages)
            return [self._handle(message) for message in messages]
        half = (len(messages) + 1) // 2
        with self._lock:
            self._counts[HALVED] += 1
            self._most = min(self._most, half)
        log.warning(
            "a stack of %d devices does not fit into memory (%s); it is halved, and the run is not "
            "reproducible to the bit",
            len(messages),
            full,
        )
        if self._where.type == "cuda":
            torch.cuda.empty_cache()
        return self._train(messages[:half]) + self._train(messages[half:])

    def _stacked(self, content: RecordDict, messages: list[Message]) -> list[Message]:
        order = Order.of(content)
        results = train_together(
            self._trainer,
            order.parameters,
            [message.metadata.dst_node_id for message in messages],
            period=order.period,
            round=order.round,
            proximal_mu=order.proximal_mu,
            where=self._where,
        )
        return [reply_with(r, message) for r, message in zip(results, messages, strict=True)]
