"""Real runs, as small as they can be, for whatever reads a record."""

from dataclasses import replace

import pytest

from experiments.options import RunOptions
from experiments.recipe import run_recipe
from fedsim import load_run

SMALL = RunOptions(devices=30, cohort=10, rounds=4, evaluate_every=2, workers=0)


@pytest.fixture(scope="session")
def private_run(tmp_path_factory):
    """Activity-based selection under device-level DP, attacked and audited."""
    out = tmp_path_factory.mktemp("private") / "run"
    run_recipe(replace(SMALL, selection="activity", dp="device", leakage=True), out, progress=False)
    return load_run(out)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    """Uniform selection over two periods, without privacy, with devices that drop out."""
    out = tmp_path_factory.mktemp("plain") / "run"
    options = replace(SMALL, setting="continual", periods=2, faults="dropout=.5")
    run_recipe(options, out, progress=False)
    return load_run(out)
