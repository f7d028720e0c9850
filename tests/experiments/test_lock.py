"""A folder has one process at a time, and a dead one's lock is taken over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.lock import NAME, locked
from fedsim import ConfigError

HOLD = """
import sys
from pathlib import Path
from experiments.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_told_which_one_is_at_work(tmp_path, holder):
    sentence = f"in use by the running process {holder.pid}; wait for it to end"
    with pytest.raises(ConfigError, match=sentence), locked(tmp_path):
        pass
    assert (tmp_path / NAME).read_text() == f"{holder.pid}\n"


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / NAME).exists()
    with locked(tmp_path):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"


def test_a_lock_ends_with_its_block_and_leaves_nothing(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "deep" / "runs"):
            assert (tmp_path / "deep" / "runs" / NAME).exists()
        assert list(tmp_path.iterdir()) == []


def test_what_was_put_into_the_folder_stays(tmp_path):
    with locked(tmp_path / "runs"):
        (tmp_path / "runs" / "table.md").write_text("")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["table.md"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    sentence = "taken cannot be used: File exists"
    with pytest.raises(ConfigError, match=sentence), locked(tmp_path / "taken"):
        pass
