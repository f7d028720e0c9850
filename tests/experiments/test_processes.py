"""Whatever a process started is found and stopped, detached or not."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import experiments.processes
from experiments.processes import descendants, requests_to_end, running, stop

pytestmark = pytest.mark.usefixtures("usual_signals")

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


def all_ended(processes: list[int]) -> bool:
    """Killed processes are gone when the kernel comes to it."""
    end = time.monotonic() + 10
    while running(processes) and time.monotonic() < end:
        time.sleep(0.01)
    return running(processes) == []


def test_a_detached_child_is_stopped_with_its_parent(monkeypatch):
    monkeypatch.setattr(experiments.processes, "GRACE", 0.3)
    with started(FAMILY) as parent:
        (child,) = descendants(parent.pid)
        assert sorted(running([parent.pid, child])) == sorted([parent.pid, child])
        stop(parent)
        assert all_ended([parent.pid, child])


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


def test_an_impatient_user_gets_the_processes_killed_at_once():
    deaf = DEAF + FAMILY.replace('"-c", "', f'"-c", "{DEAF}')
    with started(deaf) as parent:
        (child,) = descendants(parent.pid)
        soon = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        soon.start()
        with pytest.raises(KeyboardInterrupt):
            stop(parent)
        assert parent.returncode == -9
        assert all_ended([parent.pid, child])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_requests_to_end_are_obeyed_once_and_where_the_block_looks(number, capsys):
    before, after = signal.getsignal(number), []
    with pytest.raises(KeyboardInterrupt), requests_to_end("stopping") as check:
        try:
            check()
            os.kill(os.getpid(), number)
            after.append("not torn")
            check()
            after.append("not stopped")
        finally:
            for _ in range(2):
                os.kill(os.getpid(), number)
            after.append("not torn either")
    assert after == ["not torn", "not torn either"]
    assert capsys.readouterr().err == "stopping\n"
    assert signal.getsignal(number) == before


def test_a_request_that_nobody_looked_for_ends_the_block_at_its_end():
    with pytest.raises(KeyboardInterrupt), requests_to_end("stopping"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_under_nohup_survives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with requests_to_end("stopping") as check:
            os.kill(os.getpid(), signal.SIGHUP)
            check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_have_no_signals_to_wait_for():
    reached = []

    def block() -> None:
        with requests_to_end("stopping") as check:
            check()
            reached.append(True)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert reached == [True]
