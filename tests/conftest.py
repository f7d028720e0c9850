"""Where tests find the shared data sets."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of data folders: $FEDSIM_DATA, or ../shared/data beside the repository."""
    named = os.environ.get("FEDSIM_DATA")
    folder = Path(named or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the shared data sets: {folder} is no folder; set FEDSIM_DATA")
    return folder
