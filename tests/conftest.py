"""Where tests find the shared data sets, and how many threads they run on."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("fixed", derandomize=True)
"""What `make test` searches with: the same examples each time. Plain `pytest` goes on searching."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors on many threads are slow, and sums would depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Signals that end a process do so here, also under nohup and in the background."""
    usual = {signal.SIGINT: signal.default_int_handler}
    usual |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of data folders: $FEDSIM_DATA, else ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    places = [Path(p) for p in (os.environ.get("FEDSIM_DATA"), beside) if p]
    for folder in places:
        if folder.is_dir():
            return folder
    looked = " and ".join(map(str, places))
    pytest.skip(f"needs the shared data sets; no folder at {looked} (set FEDSIM_DATA)")
