"""Whatever a process started is found and stopped, detached or not."""

import subprocess
import sys
import time

import experiments.processes
from experiments.processes import descendants, running, stop

FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"


def started(script: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_detached_child_is_stopped_with_its_parent(monkeypatch):
    monkeypatch.setattr(experiments.processes, "GRACE", 0.3)
    with started(FAMILY) as parent:
        (child,) = descendants(parent.pid)
        assert sorted(running([parent.pid, child])) == sorted([parent.pid, child])
        stop(parent)
        end = time.monotonic() + 5
        while running([child]) and time.monotonic() < end:
            time.sleep(0.01)
        assert running([parent.pid, child]) == []


def test_a_process_that_will_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(experiments.processes, "GRACE", 0.2)
    with started(DEAF + "import time; print('ready', flush=True); time.sleep(60)") as process:
        stop(process)
        assert process.returncode == -9


def test_a_process_that_has_ended_needs_no_stopping():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    stop(process)
    assert process.returncode == 0


def test_processes_of_others_are_no_descendants():
    with started("import time; print('ready', flush=True); time.sleep(60)") as process:
        assert descendants(process.pid) == []
        stop(process)
