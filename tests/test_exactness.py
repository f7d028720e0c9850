"""The same config is the same model to the bit: on any number of workers, again, and elsewhere.

With devices that fail in every way, under every policy and strategy that the command line offers,
and under each of the strategies alone, which then draw and evaluate themselves.
"""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from flwr.serverapp.strategy import Strategy

from clients import NLUClient
from experiments.options import RunOptions, strategy_of
from fedsim import Continual, Faults, Population, Simulation
from fedsim.models import BiLSTMTagger
from fedsim.record import Run

HERE = Path(__file__).parent
FAULTS = Faults(
    unavailable=0.1, dropout=0.1, nan=0.1, exploding=0.05, error=0.1, deadline=0.1, spread=0.5
)
CHOICES = get_type_hints(RunOptions)
POLICIES, STRATEGIES = get_args(CHOICES["selection"]), get_args(CHOICES["strategy"])
SELECTIVE = [*product(POLICIES, STRATEGIES[:1]), *product(("activity",), STRATEGIES[1:])]
"""Every policy under FedAvg, and every other strategy under one policy."""
CELLS = [*SELECTIVE, *product(("bare",), STRATEGIES)]

PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
DRAWS = get_args(CHOICES["draw"])
BUDGETS = {"budgets": "1-8", "dp": "device", "draw": "poisson", "devices": 12, "rounds": 3}
"""What rates that follow from budgets need beside them."""


def run(selection: str, strategy: str, workers: int) -> Run:
    """Three rounds over two periods of twelve people."""
    if selection == "bare":
        rule: Strategy = strategy_of(RunOptions(cohort=8, strategy=strategy)).strategy
        rule.fraction_train = rule.fraction_evaluate = 0.7
    else:
        draw = DRAWS[CELLS.index((selection, strategy)) % len(DRAWS)]
        options = RunOptions(cohort=8, selection=selection, strategy=strategy, draw=draw)
        if selection == "budgets":
            options = replace(options, **BUDGETS)
        rule = strategy_of(options)
    return Simulation(
        population=PEOPLE,
        model=MODEL,
        client=NLUClient(local_steps=1, batch_size=8),
        strategy=rule,
        schedule=Continual(periods=2, rounds=3),
        evaluate_every=3,
        workers=workers,
        faults=FAULTS,
        seed=4,
    ).run(progress=False)


def sha(selection: str, strategy: str, workers: int) -> str:
    return run(selection, strategy, workers).summary["model_sha256"]


@pytest.fixture(scope="module")
def inline() -> dict[tuple[str, str], str]:
    """All cells, devices run in the calling thread."""
    return {cell: sha(*cell, workers=0) for cell in CELLS}


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_two_workers_give_the_model_of_none(inline, cell):
    assert sha(*cell, workers=2) == inline[cell]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_so_do_other_numbers_of_workers_and_another_turn(inline, workers):
    for cell in CELLS[workers::4]:
        assert sha(*cell, workers=workers) == inline[cell]


def test_so_does_another_process(inline):
    script = (
        f"import json, sys; sys.path.append({str(HERE)!r})\n"
        "import test_exactness as t\n"
        "print(json.dumps([t.sha(*cell, workers=1) for cell in t.CELLS]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HERE.parent, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == list(inline.values())


def test_a_bare_strategy_evaluates_on_the_same_devices_with_the_same_result():
    """Two workers against none; the figures of evaluation depend on who was asked."""
    there, here = (
        [{k: v for k, v in line["figures"].items() if k.startswith("evaluate/")} for line in rounds]
        for rounds in (run("bare", "fedavg", workers).rounds for workers in (0, 2))
    )
    assert there == here
    assert all("evaluate/eval_loss" in figures for figures in there)


def test_the_cells_differ_and_every_kind_of_fault_happens_in_them(inline):
    stages = {
        name.partition("/")[2]
        for selection in ("uniform", "activity")
        for line in run(selection, "fedavg", 0).rounds
        for name in line["figures"]
        if name.startswith("faults/")
    }
    assert {"unavailable", "dropout", "reply", "train", "late"} <= stages
    assert len(set(inline.values())) > len(CELLS) / 2
