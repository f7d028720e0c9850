"""Processes take tasks one at a time, stop at once, and do not outlive who started them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from experiments.workers import run_all

TESTS = Path(__file__).parent


def note(path: Path) -> None:
    """Write this process's id; the task named "slow" then sleeps, "dead" dies, "bad" raises."""
    path.write_text(str(os.getpid()))
    if path.name.startswith("slow"):
        time.sleep(600)
    if path.name == "dead":
        os._exit(1)
    if path.name == "bad":
        raise ValueError("no good")


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(int(seconds * 20)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def read(path: Path, seconds: float = 60) -> int:
    """The process id that a task wrote, once it has."""
    for _ in range(int(seconds * 20)):
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.05)
    raise TimeoutError(path)


@pytest.mark.slow
def test_every_task_ends_and_errors_stand_beside_theirs(tmp_path):
    tasks = [tmp_path / name for name in ("a", "bad", "b")]
    ended = dict(run_all(tasks, note, 2))
    assert set(ended) == set(tasks)
    assert [str(ended[task]) for task in tasks] == ["None", "no good", "None"]
    assert str(os.getpid()) not in {task.read_text() for task in tasks}


@pytest.mark.slow
def test_a_process_that_dies_ends_the_work_instead_of_hanging(tmp_path):
    tasks = [tmp_path / "dead", *(tmp_path / str(k) for k in range(5))]
    ended = dict(run_all(tasks, note, 1))
    assert list(ended) == tasks[:1]
    assert "terminated abruptly" in str(ended[tasks[0]])


@pytest.mark.slow
def test_closing_early_ends_the_processes_and_starts_nothing_more(tmp_path):
    tasks = [tmp_path / name for name in ("quick", "slow", "slow-too", "never", "never-too")]
    with closing(run_all(tasks, note, 2)) as ended:
        assert next(ended) == (tasks[0], None)
        pid = read(tasks[1])
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert gone(pid, 1)
    assert not any(task.exists() for task in tasks[3:])


SCRIPT = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from experiments.workers import run_all
from test_workers import note
if __name__ == "__main__":
    list(run_all([Path(p) for p in sys.argv[1:]], note, 2))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("usual_signals")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("stop", "whom"), [(signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)])
def test_processes_end_with_the_one_that_started_them(tmp_path, stop, whom):
    (tmp_path / "script.py").write_text(SCRIPT)
    tasks = [tmp_path / "slow-1", tmp_path / "slow-2"]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), *map(str, tasks)],
        cwd=TESTS.parents[1],
        env=os.environ | {"PYTHONPATH": str(TESTS.parents[1])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = [read(task) for task in tasks]
    # A terminal sends Ctrl-C to every process of the session; a kill hits one.
    whom(process.pid, stop)
    _, said = process.communicate(timeout=20)
    assert all(gone(pid) for pid in pids)
    if stop == signal.SIGINT:
        assert said.count("KeyboardInterrupt") == 1
