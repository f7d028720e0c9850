"""How many devices failed in a run, where, and was that simulated?"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.record import Run


def failure_notes(run: "Run") -> list[str]:
    """What a reader must know of failed devices; nothing where none failed and none was to."""
    failed = sum(line.get("failures") or 0 for line in run.rounds)
    asked = sum(line.get("cohort_size") or 0 for line in run.rounds)
    faults = run.config.get("simulation", {}).get("faults")
    if faults is None:
        return [f"{failed:,} of {asked:,} trainings on devices failed"] if failed else []
    stages: Counter[str] = Counter()
    for line in run.rounds:
        for name, count in line["figures"].items():
            probe, _, stage = name.partition("/")
            if probe == "faults" and stage != "simulated_seconds":
                stages[stage] += count
    where = ", ".join(f"{count:,} {stage}" for stage, count in stages.most_common())
    return [
        f"faults were simulated ({_said(faults)}): {failed:,} of {asked:,} trainings on devices "
        f"failed{f' ({where})' if where else ''}"
    ]


def _said(faults: Mapping[str, Any]) -> str:
    """The faults that were switched on, as they are written on a command line."""
    given = {k: v for k, v in faults.items() if k != "class" and v}
    if not faults["deadline"]:
        given = {k: v for k, v in given.items() if k not in ("speed", "spread")}
    return ",".join(f"{name}={value:g}" for name, value in given.items())
