"""Which words does each command of `fedsim` take?

One dataclass a command: its fields are the options, its docstring is what `--help` says of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments.run_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class RunCommand(RunOptions):
    """Run one simulation and print its figures.

    Attributes:
      out: folder for the record; default: no record, the table alone.
    """

    out: Path | None = None

    def __post_init__(self) -> None:
        """Nothing: the parser would frame a refusal; `run` checks when it makes the options."""


@dataclass(frozen=True, kw_only=True)
class ResumeCommand:
    """Go on with a run that was interrupted, to the result it would have had.

    Attributes:
      folder: what --out of `fedsim run` named.
    """

    folder: tyro.conf.Positional[Path]


@dataclass(frozen=True, kw_only=True)
class ExperimentCommand:
    """Run one paper-style experiment and print its table.

    A second call goes on where the first stopped.

    Attributes:
      name: selection: does drawing active devices more often help; price-of-activity: what it costs
        each device in device-level privacy, and what it buys; dpsgd: what example-level privacy
        costs in accuracy, time and memory, by each way of computing a step; leakage: what an
        attacker gets out of models trained with more or less privacy.
      preset: how much of it.
      seeds: runs of every row; default: the preset's.
      corpus: home, massive, snips, a file or a hub name; default: the preset's (dpsgd: one or two).
      data: folder of data folders, one data folder, or a file; default $FEDSIM_DATA.
      columns: of a file: user=...,text=...,tokens=...,intent=...,slots=...,split=...,order=...
      partition: how sets without people are dealt out: iid, dirichlet:A, quantity:A, natural. All
        runs have the same people.
      labels: JSON file with the label inventory of a file.
      devices: number of devices; default: the preset's, or with another corpus its own.
      rounds: rounds a run; default: the preset's.
      periods: periods of the continual setting; default 5.
      by: cut each person's utterances (device) or the order of collection (clock); default device.
      keep: what devices keep of earlier periods: current, window:k, reservoir:n, all; default
        current.
      cohort: expected devices a round; default: the preset's.
      model: bilstm or transformer; default bilstm (dpsgd: the preset's).
      epsilon: what the worst device may spend (price-of-activity alone); default: the preset's.
      seed: the first; rows have the same seeds, counted from it.
      processes: runs at a time; default: one a core.
      out: folder for runs, tables and figures; default runs/NAME.
    """

    name: tyro.conf.Positional[Literal["selection", "price-of-activity", "dpsgd", "leakage"]]
    preset: Literal["quick", "paper"] = "quick"
    seeds: int | None = None
    corpus: str | None = None
    data: str | None = None
    columns: str | None = None
    partition: str | None = None
    labels: str | None = None
    devices: int | None = None
    rounds: int | None = None
    periods: int | None = None
    by: Literal["device", "clock"] | None = None
    keep: str | None = None
    cohort: int | None = None
    model: Literal["bilstm", "transformer"] | None = None
    epsilon: float | None = None
    seed: int = 0
    processes: int | None = None
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SweepCommand:
    """Run every combination of the options that a recipe lists, several at a time.

    The recipe is a TOML file: [options] holds options of `fedsim run` that all runs share, [grid]
    the values of those that vary, seeds among them, as lists; several [[grid]] tables are several
    grids. A second call goes on where the first stopped: finished runs are kept, interrupted ones
    go on from their checkpoints. A run that fails is named, and the others go on.

    Attributes:
      recipe: the TOML file.
      list: name the runs and how far each is, and run nothing.
      processes: runs at a time; default: one a core.
      out: folder for the runs; default runs/NAME, after the recipe.
    """

    recipe: tyro.conf.Positional[Path]
    list: bool = False
    processes: int | None = None
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BenchCommand:
    """Time one part of fedsim against doing without it, and hold it to its budget.

    Attributes:
      name: round: a round of training against loops over the same devices, and other simulators;
        population: a round among a million devices against one among a thousand;
        dpsgd: an exact private step against an ordinary one, Opacus and a loop over examples;
        ledger: the privacy ledger of 10,000 devices over 1,000 rounds;
        leakage: measuring what a round leaks against the round;
        cohort: devices as stacked tensors against devices one by one.
      rounds: timed rounds (dpsgd: steps) of each candidate and repeat, default 8 (cohort: 1); of
        ledger: rounds in its history, default 1,000.
      repeats: turns each candidate gets; medians over them are reported. Of ledger, the line whose
        seconds have a budget; the others get one.
      workers: threads that train devices; 0 trains inline; default one a core (round, population
        and leakage alone).
      pfl_python: an interpreter with pfl[pytorch], to time pfl-research as well (round alone).
      json: file for the machine, every measurement and the budgets.
    """

    name: tyro.conf.Positional[
        Literal["round", "population", "dpsgd", "ledger", "leakage", "cohort"]
    ]
    rounds: int | None = None
    repeats: int = 5
    workers: int | None = None
    pfl_python: Path | None = None
    json: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Write a page about one run or several: an HTML file that loads nothing, light and dark.

    Beside it, in a folder of its name, every figure as PNG and SVG with its numbers as CSV. Runs
    that differ in the seed alone are shown together, with intervals.

    Attributes:
      folders: of runs, or folders that hold such folders.
      out: the HTML file; default report.html, in the folder where a single one is named.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TablesCommand:
    """Print a paper-style table of any runs: means over seeds, intervals, a paired test.

    A row is compared with the first of its corpus and setting, so name the baseline first.

    Attributes:
      folders: of runs, or folders that hold such folders.
      out: folder for the table as Markdown, LaTeX (booktabs) and CSV; default: it is printed alone.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
