"""Which processes did this one start, directly or through others, and are they all stopped?

Flower detaches what it starts, so ending its first process is not enough.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

GRACE = 5.0
"""Seconds processes may take to end before they are killed.

Flower's simulation goes on with its rounds after a polite request, so this is not long.
"""


def stop(process: subprocess.Popen) -> None:
    """End a process and all that it started, and wait until they are gone."""
    ids = [process.pid, *descendants(process.pid)]
    process.terminate()
    end = time.monotonic() + GRACE
    while running(ids) and time.monotonic() < end:
        process.poll()
        # What it starts meanwhile counts too.
        ids += [pid for pid in descendants(*ids) if pid not in ids]
        time.sleep(0.05)
    for pid in running(ids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


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
