"""Tables of runs as they are: the measured rounds of one, the final figures of several."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedsim.privacy.claim import FOLLOW
from fedsim.record.run import Run
from fedsim.report.curves import work
from fedsim.report.leakage import leakage_columns, leakage_notes
from fedsim.report.statistics import Estimate, estimate
from fedsim.report.table import Column, Table

_FIGURES = (
    Column("intent_accuracy", "intent accuracy", "share"),
    Column("slot_f1", "slot F1", "share"),
    Column("exact_match", "exact match", "share"),
)
_CLAIMS = (
    Column("epsilon_max", "eps worst", "number"),
    Column("example_epsilon_max", "example eps worst", "number"),
)
"""What privacy had cost, of devices and of examples; shown where anything is claimed."""


def rounds_table(run: Run) -> Table:
    """The measured rounds of one run; devices that failed are added up since the first round."""
    claims = [*_claimed(run.rounds), *leakage_columns(run.rounds)]
    measured = [line for line in run.rounds if line["intent_accuracy"] is not None]
    failed = dict(zip(work(run, "rounds"), np.cumsum(_failures(run)), strict=True))
    lossy = [Column("failed", "failed so far", "count")] if any(_failures(run)) else []
    rows = [
        {
            "round": line["round"],
            "period": line["period"],
            "cohort": line["cohort_size"],
            "examples": line["cohort_examples"],
            "failed": failed[line["round"]],
            "train_loss": "" if line["train_loss"] is None else f"{line['train_loss']:.3f}",
            **{c.key: _one(line[c.key]) for c in _FIGURES},
            **{c.key: line.get(c.key) for c in claims},
        }
        for line in measured
    ]
    return Table(
        columns=[
            Column("round", "round", "count", label=True),
            Column("period", "period", "count"),
            Column("cohort", "devices", "count"),
            Column("examples", "examples", "count"),
            *lossy,
            Column("train_loss", "training loss"),
            *_FIGURES,
            *claims,
        ],
        rows=rows,
        caption=(
            f"{run.start['population']}, {run.config['setting']}, "
            f"{run.config['selection_label']} selection, weighting {run.config['weighting']}, "
            f"seed {run.config['seed']}; figures on {run.start['test_examples']:,} test "
            "utterances, in percent."
        ),
        notes=[*_follow_notes([run]), *leakage_notes(run)],
    )


def final_table(runs: Sequence[Run]) -> Table:
    """The last measured figures of several runs, a row each."""
    last = [run.summary for run in runs]
    claims = [*_claimed(last), *leakage_columns(last)]
    rows = [
        {
            "setting": run.config["setting"],
            "selection": run.config["selection_label"],
            "weighting": run.config["weighting"],
            "seed": run.summary["seed"],
            "rounds": run.summary["rounds"],
            "examples": work(run, "examples")[-1],
            **{c.key: _one(run.summary.get(c.key)) for c in _FIGURES},
            **{c.key: run.summary.get(c.key) for c in claims},
        }
        for run in runs
    ]
    return Table(
        columns=[
            Column("setting", "setting", label=True),
            Column("selection", "selection", label=True),
            Column("weighting", "weighting"),
            Column("seed", "seed", "count"),
            Column("rounds", "rounds", "count"),
            Column("examples", "examples", "count"),
            *_FIGURES,
            *claims,
        ],
        rows=rows,
        caption="Last measured figures of each run, in percent.",
        notes=_follow_notes(runs),
    )


def _claimed(lines: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns of the claims that are finite anywhere."""
    return [c for c in _CLAIMS if any((line.get(c.key) or np.inf) < np.inf for line in lines)]


def _follow_notes(runs: Sequence[Run]) -> list[str]:
    """What is claimed, and why no more, where rates or noise follow other things than activity."""
    said = (text for run in runs for text in run.start.get("assumptions") or [])
    return [text for text in dict.fromkeys(said) if FOLLOW in text]


def _failures(run: Run) -> list[int]:
    return [line.get("failures") or 0 for line in run.rounds]


def _one(value: float | None) -> Estimate | None:
    return None if value is None else estimate([value])
