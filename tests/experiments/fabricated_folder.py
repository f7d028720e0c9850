"""Folders of finished runs, written in the format of the record without running anything."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from experiments.cells import Cell

ACTIVITY = np.array([2, 4, 8, 16, 33, 64, 100, 200])
FINGERPRINTS = {"static": "5a1d", "continual": "c0de"}
OWN = {"uniform": "examples", "activity": "equal"}


def write_run(cell: Cell, path: Path) -> None:
    """What `experiments.cells.execute` leaves behind, from a formula that depends on the cell."""
    if path.exists():
        raise FileExistsError(path)
    path.mkdir(parents=True)
    config = json.loads(json.dumps(asdict(cell.options), default=str))
    config["recipe"] = dict(config)
    if config["weighting"] == "auto":
        config["weighting"] = OWN.get(cell.options.selection, "inverse-rate")
    config["learning_rate"] = 1.0
    (path / "config.json").write_text(json.dumps(config))
    start = {"assumptions": [], "fingerprint": FINGERPRINTS[cell.options.setting]}
    (path / "start.json").write_text(json.dumps(start))
    lines = []
    for number in range(1, 5):
        lift = 0.05 * (cell.options.selection == "activity") + 0.01 * cell.options.seed
        line = {
            "round": number, "period": number if cell.options.setting == "continual" else 1,
            "cohort_size": 3, "cohort_examples": 50, "intent_accuracy": 0.1 * number + lift,
            "slot_f1": 0.3, "exact_match": 0.2, "figures": {},
        }  # fmt: skip
        lines.append(json.dumps(line))
    (path / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    periods = 4 if cell.options.setting == "continual" else 1
    np.savez(path / "devices.npz", activity=np.stack([ACTIVITY] * periods))
    np.savez(
        path / "cohorts.npz",
        rates=np.full((1, 8), 0.4),
        drawn=np.tile(np.arange(3), 4),
        drawn_offsets=np.arange(5) * 3,
    )
    (path / "summary.json").write_text(json.dumps({"seed": cell.options.seed}))


def lazy_run(cell: Cell, path: Path) -> None:
    """A run that says it began and goes on until it is ended; the run of seed 0 finishes."""
    if cell.options.seed == 0:
        write_run(cell, path)
        return
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    time.sleep(600)


def broken_run(cell: Cell, path: Path) -> None:
    """The run of seed 1 crashes half way; the others finish."""
    if cell.options.seed == 1:
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        raise RuntimeError("the machine caught fire")
    write_run(cell, path)


def dying_run(cell: Cell, path: Path) -> None:
    """The run of seed 1 takes its process with it; the others finish."""
    if cell.options.seed == 1:
        os._exit(1)
    write_run(cell, path)
