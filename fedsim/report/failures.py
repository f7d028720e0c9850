"""What failed in a run, where, and was that simulated?"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedsim.faults import KINDS

if TYPE_CHECKING:
    from fedsim.record import Run

NOT_TRAINING = {
    "evaluate": "evaluations on devices that failed",
    "aggregate": "aggregates that were refused, so that the model stayed as it was",
}
"""Stages of failures that were no device's training, as a reader is told of them."""


def failure_notes(run: "Run") -> list[str]:
    """What a reader must know of failures; nothing where nothing failed and nothing was to.

    What a simulated fault is to blame for is counted apart from everything else.
    """
    asked = sum(line.get("cohort_size") or 0 for line in run.rounds)
    faults = run.config.get("simulation", {}).get("faults")
    notes = []
    if faults is not None:
        failed = _trainings(_stages(run, "faults"), asked)
        notes.append(f"faults were simulated ({_said(faults)}): by them {failed}")
    real = _stages(run, "failures")
    elsewhere = [
        f"{what}: {real.pop(stage):,}" for stage, what in NOT_TRAINING.items() if real[stage]
    ]
    if real.total():
        apart = "" if faults is None else "beside the simulated faults, "
        notes.append(apart + _trainings(real, asked))
    return notes + elsewhere + _of_engine(run)


def _of_engine(run: "Run") -> list[str]:
    """What the batched engine could not do as planned."""
    counts = _stages(run, "engine")
    notes = []
    if halved := counts["out_of_memory"]:
        notes.append(
            f"stacks of devices did not fit into memory and were halved, {halved:g} times, so this "
            "run is not reproducible to the bit"
        )
    if counts["one_by_one"]:
        notes.append(f"{counts['one_by_one']:g} trainings ran one by one, because a stack failed")
    return notes


def _stages(run: "Run", probe: str) -> Counter[str]:
    """Failures by stage, over all rounds."""
    stages: Counter[str] = Counter()
    for line in run.rounds:
        for name, count in line["figures"].items():
            of, _, stage = name.partition("/")
            if of == probe and stage != "simulated_seconds":
                stages[stage] += count
    return stages


def _trainings(stages: Counter[str], asked: int) -> str:
    where = ", ".join(f"{count:,} {stage}" for stage, count in stages.most_common())
    failed = f"{stages.total():,} of {asked:,} trainings on devices failed"
    return f"{failed} ({where})" if where else failed


def _said(faults: Mapping[str, Any]) -> str:
    """The faults that were switched on, as they are written on a command line."""
    clock = () if faults["deadline"] is None else ("deadline", "speed", "spread")
    given = [kind for kind in KINDS if faults[kind]]
    return ",".join(f"{name}={faults[name]:g}" for name in (*given, *clock))
