"""How do several processes share a list of runs, and stop at once when told to?

A process is handed one run at a time, so that nothing waits in a queue when the experiment is
interrupted, and it ends with the process that started it. Each computes on one thread: processes
share the cores between them, and more threads in each would only get in the way.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

T = TypeVar("T")


def run_all(
    tasks: Sequence[T], run: Callable[[T], None], processes: int
) -> Generator[tuple[T, BaseException | None], None, None]:
    """Run tasks in fresh processes.

    Args:
      tasks: what to run; they travel to the processes pickled.
      run: a function of a module, called with a task.
      processes: tasks at a time.

    Yields:
      Each task with the error it ended with, or None, as they end. Where a process dies, the tasks
      it takes down end with that error, and the rest are not run. Closing the generator early ends
      the processes where they stand.
    """
    waiting, running = deque(tasks), dict[Future[None], T]()
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(tasks)), mp_context=spawn, initializer=_prepare)
    broken = False
    try:
        while running or (waiting and not broken):
            while waiting and len(running) < processes and not broken:
                task = waiting.popleft()
                running[_submit(pool, run, task)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                broken = broken or isinstance(error, BrokenProcessPool)
                yield running.pop(future), error
    except BaseException:
        # Python 3.14 has pool.terminate_workers() for this.
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, run: Callable[[T], None], task: T) -> Future[None]:
    """Submit with the interrupt signal blocked, which processes started here inherit.

    A terminal sends Ctrl-C to all of them, and only the one that answers for them should hear it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(run, task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """What a fresh process does first."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its processes, and they would write on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
