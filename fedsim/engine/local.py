"""Devices on a pool of threads in this process, behind Flower's own `Grid` interface.

Torch releases the interpreter lock inside its kernels, so threads train devices in parallel
without copies, processes or serialisation. Each kernel runs on one thread: the result does not
depend on how many workers there are.
"""

import gc
import logging
import sys
from bdb import BdbQuit
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from itertools import count
from typing import Any, TypeVar

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engine.flower import RAISED, DeviceGrid, reason
from fedsim.engine.memory import keep_freed

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

SWITCH_INTERVAL = 5e-5
"""Seconds for which a thread may keep the interpreter from others that wait for it."""

_FAILED = "device %d failed; further errors of this kind are counted, not shown"


class LocalGrid(DeviceGrid):
    """A Flower grid whose nodes are devices 0 .. devices - 1, run by worker threads.

    The first error of each kind that an app raises is logged with its traceback. What a device
    keeps in its `Context.state` is what its last message that went well left there.

    Args:
      app: what a device does with a message.
      devices: number of devices.
      workers: threads; 0 runs devices in the calling thread, one after another, where `sys.exit()`
        ends the run; leaving a debugger always does.

    Use as a context manager, which ends the threads:

        with LocalGrid(app, devices=100, workers=2) as grid:
            replies = grid.send_and_receive(messages)
    """

    def __init__(self, app: ClientApp, *, devices: int, workers: int) -> None:
        self._app = app
        self._devices = devices
        self._workers = workers
        self._leaving = (BdbQuit,) if workers else (BdbQuit, SystemExit)
        self._states: dict[int, RecordDict] = {}
        self._ids = count(1)
        self._pending: dict[str, Future[Message]] = {}
        self._told: dict[tuple, object] = {}

    def __enter__(self) -> "LocalGrid":
        self._threads_before, self._interval_before = (
            torch.get_num_threads(),
            sys.getswitchinterval(),
        )
        torch.set_num_threads(1)
        keep_freed()
        # Training is many short kernels: a worker that comes out of one should not wait 5 ms until
        # another hands over the interpreter.
        sys.setswitchinterval(SWITCH_INTERVAL)
        # What is there already (modules, the corpus) need not be searched for garbage every round.
        self._froze = gc.get_freeze_count() == 0
        if self._froze:
            gc.freeze()
        self._pool = ThreadPoolExecutor(self._workers) if self._workers else None
        return self

    def __exit__(self, *_) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads_before)
        sys.setswitchinterval(self._interval_before)
        if self._froze:
            gc.unfreeze()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterable[R]:
        """Apply a function on the workers; results in the order of the items."""
        return self._pool.map(function, items) if self._pool else map(function, items)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Train (or evaluate, or query) every addressed device; one reply each, as they are ready.

        With workers all of them start at once; without, each starts when its reply is asked for.
        """
        return self.map(self._handle, messages)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start work on messages; without workers it is done before this returns."""
        ids = []
        for message in messages:
            key = str(next(self._ids))
            if self._pool:
                self._pending[key] = self._pool.submit(self._handle, message)
            else:
                self._pending[key] = Future()
                self._pending[key].set_result(self._handle(message))
            ids.append(key)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are ready; each is handed out once."""
        ready = [key for key in message_ids if key in self._pending and self._pending[key].done()]
        return [self._pending.pop(key).result() for key in ready]

    def get_node_ids(self) -> Iterable[int]:
        """All device ids."""
        return range(self._devices)

    def set_run(self, run) -> None:
        """Accepted for the interface's sake; there is one run in this process."""

    def state_dict(self) -> dict[str, Any]:
        """What devices keep between rounds in the `Context.state` of their app."""
        return {"devices": dict(self._states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give devices back what they kept."""
        self._states = state["devices"]

    @property
    def run(self):
        """Not available: no SuperLink has registered a run."""
        raise RuntimeError("LocalGrid runs in this process; there is no registered Flower run")

    def _handle(self, message: Message) -> Message:
        """Run the app for one device; whatever it raises becomes an error reply."""
        device = message.metadata.dst_node_id
        kept = self._states.get(device)
        context = Context(
            run_id=message.metadata.run_id,
            node_id=device,
            node_config={"partition-id": device, "num-partitions": self._devices},
            # A copy: a device that fails must not leave its state half changed.
            state=RecordDict() if kept is None else deepcopy(kept),
            run_config={},
        )
        try:
            reply = self._app(message, context)
            if not isinstance(reply, Message) or reply.metadata.src_node_id != device:
                raise TypeError("the client app returned no reply to its message")
        except (Exception, SystemExit) as error:
            if isinstance(error, self._leaving):
                raise
            new = self._is_new(error)
            log.log(logging.WARNING if new else logging.DEBUG, _FAILED, device, exc_info=True)
            return Message(Error(code=RAISED, reason=reason(error)), reply_to=message)
        if context.state:
            self._states[device] = context.state
        else:
            self._states.pop(device, None)
        return reply

    def _is_new(self, error: BaseException) -> bool:
        """Whether no error of this type was raised at this place before, on any thread."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        mine = object()
        return self._told.setdefault((type(error), place), mine) is mine
