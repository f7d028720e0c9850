"""What a benchmark measured, on which machine, and whether it kept its budgets."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsim.environment import environment


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A figure that must not grow.

    Attributes:
      name: what is compared.
      value: what was measured.
      budget: the most it may be.

    Example:
      >>> Budget(name="a round / a bare loop", value=1.04, budget=1.1).met
      True
    """

    name: str
    value: float
    budget: float

    @property
    def met(self) -> bool:
        """Whether the value is within the budget."""
        return self.value <= self.budget


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of a benchmark.

    Attributes:
      name: what ran.
      seconds: (repeats, rounds) wall-clock seconds of every round.
      median: seconds a round: medians over repeats, averaged over rounds.
      examples_per_second: training examples over those medians.
      ratio: median, over repeats and rounds, of a round's seconds over those of the same round and
        repeat of `against`; None where there is nothing to compare with.
      against: name of the line it is compared with, or None.
    """

    name: str
    seconds: Sequence[Sequence[float]]
    median: float
    examples_per_second: float
    ratio: float | None = None
    against: str | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything one invocation measured.

    Attributes:
      name: of the benchmark.
      settings: how much was run.
      measurements: a line each.
      budgets: what had to hold.
    """

    name: str
    settings: Mapping[str, Any]
    measurements: Sequence[Measurement]
    budgets: Sequence[Budget]

    def json(self) -> str:
        """Machine, settings, every measurement and the budgets, as a JSON object."""
        contents = {
            "name": self.name,
            "machine": machine(),
            "settings": dict(self.settings),
            "measurements": [asdict(m) for m in self.measurements],
            "budgets": [asdict(b) | {"met": b.met} for b in self.budgets],
        }
        return json.dumps(contents, indent=1) + "\n"

    def markdown(self) -> str:
        """One pipe table, and a sentence a budget."""
        lines = ["| a round of | seconds | examples/s | ratio |", "|:--|--:|--:|:--|"]
        for m in self.measurements:
            ratio = "" if m.ratio is None else f"{m.ratio:.2f} of {m.against}"
            lines.append(f"| {m.name} | {m.median:.3f} | {m.examples_per_second:,.0f} | {ratio} |")
        lines.append("")
        for b in self.budgets:
            verdict = "within" if b.met else "over"
            lines.append(f"- {b.name}: {b.value:.3f}, {verdict} its budget of {b.budget:.2f}")
        return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """Processor, cores, and the versions that shape a timing."""
    return {"processor": _processor(), "cores": os.cpu_count(), **environment()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # Not Linux.
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
