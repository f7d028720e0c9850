"""Where tests find the shared data sets, and how many threads they run on."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors on many threads are slow, and sums would depend on the machine."""
    torch.set_num_threads(1)


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
