"""What a benchmark measured, on which machine, and whether it kept its budgets."""

import json
import os
import platform
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from fedsim.environment import environment


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A figure that must not grow.

    Attributes:
      name: what is compared.
      value: what was measured, or None where it could not be.
      budget: the most it may be.
      interval: where the value lies with 95 % confidence, or None where that is not known.

    Example:
      >>> Budget(name="a round / a bare loop", value=1.04, budget=1.1).met
      True
    """

    name: str
    value: float | None
    budget: float
    interval: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value is within the budget; None where nothing was measured."""
        return None if self.value is None else self.value <= self.budget


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of a benchmark.

    Attributes:
      name: what ran.
      seconds: (repeats, rounds) wall-clock seconds of every round.
      examples: (repeats, rounds) training examples of every round, None where nothing trains.
      ratio: how many times as long it takes as `against`, see `ratio_of_rounds`; None where there
        is nothing to compare with.
      against: name of the line it is compared with, or None.
      cpu_seconds: (repeats, rounds) seconds of processor time of all threads, or None.
      peak_bytes: (repeats,) most memory its process had, where each repeat is a process; or what
        the benchmark's notes say.
      peak_ratio: how many times as much memory it takes as `against`, or None.
    """

    name: str
    seconds: Sequence[Sequence[float]]
    examples: Sequence[Sequence[int]] | None = None
    ratio: float | None = None
    against: str | None = None
    cpu_seconds: Sequence[Sequence[float]] | None = None
    peak_bytes: Sequence[int] | None = None
    peak_ratio: float | None = None

    @property
    def median(self) -> float:
        """Seconds a round: medians over repeats, averaged over rounds."""
        return _median(self.seconds)

    @property
    def examples_per_second(self) -> float | None:
        """Training examples a second: the median over repeats."""
        if self.examples is None:
            return None
        return float(np.median(np.sum(self.examples, axis=1) / np.sum(self.seconds, axis=1)))

    def contents(self) -> dict[str, Any]:
        """All of it, for the record."""
        derived = {"median": self.median, "examples_per_second": self.examples_per_second}
        return asdict(self) | derived


def _median(seconds: Sequence[Sequence[float]]) -> float:
    return float(np.median(seconds, axis=0).mean())


def ratio_of_rounds(line: Measurement, base: Measurement) -> float:
    """Median, over repeats and rounds, of a round's seconds over those of the same one of `base`.

    Example:
      >>> slow = Measurement(name="a", seconds=[[2.0, 3.0]], examples=[[4, 4]])
      >>> fast = Measurement(name="b", seconds=[[1.0, 1.0]], examples=[[4, 4]])
      >>> ratio_of_rounds(slow, fast)
      2.5
    """
    return float(np.median(np.array(line.seconds) / np.array(base.seconds)))


def interval_of_rounds(line: Measurement, base: Measurement) -> tuple[float, float] | None:
    """Where the ratio lies with 95 % confidence: Student's t over medians of repeats.

    Rounds of a repeat share what the machine did meanwhile, so that repeats count alone. Logarithms
    of ratios are taken for normal.

    Returns:
      None of a single repeat.

    Example:
      >>> slow = Measurement(name="a", seconds=[[2.0], [2.0]])
      >>> fast = Measurement(name="b", seconds=[[1.0], [1.0]])
      >>> interval_of_rounds(slow, fast)
      (2.0, 2.0)
    """
    logs = np.log(np.median(np.array(line.seconds) / np.array(base.seconds), axis=1))
    if len(logs) < 2:
        return None
    wide = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    low, high = np.exp([logs.mean() - wide, logs.mean() + wide])
    return float(low), float(high)


def ratio_of_peaks(line: Measurement, base: Measurement) -> float:
    """Median, over repeats, of peak memory over that of the same repeat of `base`.

    Example:
      >>> large = Measurement(name="a", seconds=[[1.0]], examples=[[4]], peak_bytes=[300])
      >>> small = Measurement(name="b", seconds=[[1.0]], examples=[[4]], peak_bytes=[200])
      >>> ratio_of_peaks(large, small)
      1.5
    """
    own, other = (np.array(m.peak_bytes, dtype=float) for m in (line, base))
    return float(np.median(own / other))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything one invocation measured.

    Attributes:
      name: of the benchmark.
      settings: how much was run.
      measurements: a line each.
      budgets: what had to hold.
      notes: sentences on what is missing, and why.
      timed: what the seconds are of.
    """

    name: str
    settings: Mapping[str, Any]
    measurements: Sequence[Measurement]
    budgets: Sequence[Budget]
    notes: Sequence[str] = ()
    timed: str = "a round of"

    def json(self) -> str:
        """Machine, settings, every measurement and the budgets, as a JSON object."""
        contents = {
            "name": self.name,
            "machine": machine(),
            "settings": dict(self.settings),
            "measurements": [m.contents() for m in self.measurements],
            "budgets": [asdict(b) | {"met": b.met} for b in self.budgets],
            "notes": list(self.notes),
        }
        return json.dumps(contents, indent=1) + "\n"

    def markdown(self) -> str:
        """One pipe table, and a sentence a budget."""
        measured = self.measurements
        columns = {
            "seconds": [f"{m.median:.3f}" for m in measured],
            "CPU seconds": [f"{_median(m.cpu_seconds):.3f}" for m in measured if m.cpu_seconds],
            "examples/s": [f"{m.examples_per_second:,.0f}" for m in measured if m.examples],
            "peak memory": [_size(max(m.peak_bytes)) for m in measured if m.peak_bytes],
        }
        # A benchmark measures something of all of its lines or of none.
        columns = {name: cells for name, cells in columns.items() if cells}
        ratios = [_ratio(m) for m in measured]
        names = [m.name for m in measured]
        lines = [
            _row(self.timed, *columns, "ratio"),
            f"|:--|{'--:|' * len(columns)}:--|",
            *(_row(*cells) for cells in zip(names, *columns.values(), ratios, strict=True)),
            "",
        ]
        lines.extend(map(_verdict, self.budgets))
        lines.extend(f"- Note: {note}" for note in self.notes)
        return "\n".join(lines) + "\n"


def _ratio(line: Measurement) -> str:
    if line.ratio is None:
        return ""
    memory = "" if line.peak_ratio is None else f", memory {line.peak_ratio:.2f}"
    return f"{line.ratio:.2f} of {line.against}{memory}"


def _size(most: int) -> str:
    return f"{most / 1e9:.2f} GB" if most >= 1e8 else f"{most / 1e6:.1f} MB"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _verdict(budget: Budget) -> str:
    if budget.value is None:
        return f"- {budget.name}: not measured here; its budget is {budget.budget:.3g}"
    verdict = "within" if budget.met else "over"
    digits = ".3f" if budget.budget >= 1e-3 else ".2g"
    value = f"{budget.value:{digits}}"
    if budget.interval is not None:
        low, high = budget.interval
        value += f" ({low:{digits}} to {high:{digits}})"
    return f"- {budget.name}: {value}, {verdict} its budget of {budget.budget:.3g}"


def measure(parser: ArgumentParser, bench: Callable[..., Benchmark]) -> None:
    """Run a benchmark with the options of the process, print it, and write it where `--json` says.

    Args:
      parser: of the benchmark's own options, by the names of its arguments.
      bench: what they are given to.
    """
    parser.add_argument("--json", type=Path, help="write machine, measurements and budgets here")
    options = vars(parser.parse_args())
    file = options.pop("json")
    measured = bench(**options)
    print(measured.markdown())
    if file is not None:
        file.write_text(measured.json(), "utf-8")


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
