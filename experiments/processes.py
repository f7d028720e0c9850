"""Which processes did this one start, directly or through others, and are they all stopped?

Flower detaches what it starts, so ending its first process is not enough; and a signal that ended
this process in the middle of starting or stopping others would leave them behind.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE = 5.0
"""Seconds processes may take to end before they are killed.

Flower's simulation goes on with its rounds after a polite request, so this is not long.
"""


def stop(process: subprocess.Popen) -> None:
    """End a process and all that it started, and wait until they are gone.

    An exception meanwhile, such as a KeyboardInterrupt, cuts their grace short.
    """
    ids = [process.pid, *descendants(process.pid)]
    try:
        process.terminate()
        end = time.monotonic() + GRACE
        while running(ids) and time.monotonic() < end:
            process.poll()
            # What it starts meanwhile counts too.
            ids += [pid for pid in descendants(*ids) if pid not in ids]
            time.sleep(0.05)
    finally:
        for pid in running(ids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@contextmanager
def requests_to_end(saying: str) -> Iterator[Callable[[], None]]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the block in places of its choice only, however many come.

    Signals that somebody handles or ignores already (as under nohup) stay as they are.

    Args:
      saying: a sentence for standard error when one is obeyed.

    Yields:
      A function that raises KeyboardInterrupt once a signal has come; to be called while waiting.

    Raises:
      KeyboardInterrupt: at the end of a block that nothing else ended, if a signal has come.

    Example:
      >>> with requests_to_end("stopping") as check:
      ...     check()
    """
    came: list[int] = []

    def check() -> None:
        if came:
            # The terminal may be what has gone.
            with suppress(OSError):
                print(saying, file=sys.stderr, flush=True)
            raise KeyboardInterrupt

    usual = {signal.SIGINT: signal.default_int_handler} | dict.fromkeys(
        (signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL
    )
    # Elsewhere than in the main thread signals do not arrive and cannot be asked for.
    here = threading.current_thread() is threading.main_thread()
    held = {s: handler for s, handler in usual.items() if here and signal.getsignal(s) == handler}
    for number in held:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield check
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    check()


def descendants(*ids: int) -> list[int]:
    """Processes that were started by others, by their children, and so on."""
    parents = _parents()
    found: list[int] = []
    new = set(ids)
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - {*found, *ids}
        found += sorted(new)
    return found


def running(ids: Iterable[int]) -> list[int]:
    """Those of some processes that have not ended."""
    parents = _parents()
    return [pid for pid in ids if pid in parents]


def _parents() -> dict[int, int]:
    """The parent of every process of this machine that has not ended."""
    if not Path("/proc/self/stat").exists():
        rows = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        fields = [row.split() for row in rows]
        return {int(pid): int(parent) for pid, parent, state in fields if state[0] != "Z"}
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in brackets, may hold anything; state and parent follow it.
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    return parents
