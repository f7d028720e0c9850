"""What does example-level privacy cost in accuracy, time and memory, and who pays least for it?

One model of each kind is trained without privacy, by exact per-example DP-SGD and by eDP-SGD as
published, at several noise levels, on all data at once ("central") and on devices ("federated").
A step is also computed by Opacus's hooks and ghost clipping and by a loop over examples: they give
the same sums, so they are timed and not trained.

On devices rates are the models' own (`JointTagger.private_rate`), centrally `CENTRAL_RATES`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.dpsgd_rows import Case, Clipping, Row, cases_of, rows_of
from experiments.options import RunOptions
from experiments.presets import Preset, chosen, chosen_with_seeds, run_options, runs_of
from fedsim.record import Run
from fedsim.report.dpsgd import EDP, OURS, PLAIN, Cost, Line, dpsgd_table
from fedsim.report.table import Table


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of the experiment a preset runs.

    Attributes:
      corpora: name -> where its runs depart from the defaults of a run.
      models: trained on each of them.
      noise: way to clip -> noise multipliers.
      options: where all runs depart from the defaults.
      epochs: of central training.
      seeds: runs of every row.
      turns: timed steps of each way to compute one.
    """

    corpora: Mapping[str, Mapping[str, Any]]
    models: tuple[Literal["bilstm", "transformer"], ...]
    noise: Mapping[Clipping, Sequence[float]]
    options: Mapping[str, Any]
    epochs: int
    seeds: int
    turns: int


PRESETS: dict[str, Size] = {
    "quick": Size(
        corpora={"home": {"devices": 100}},
        models=("bilstm",),
        noise={"flat": (0.4, 0.8), "edp-sgd": (0.4, 0.8)},
        options={"cohort": 16, "rounds": 20, "evaluate_every": 20},
        epochs=10,
        seeds=1,
        turns=3,
    ),
    "paper": Size(
        # Of snips nobody is known to have said anything: devices like those of massive in size.
        corpora={"snips": {"devices": 600}, "massive": {}},
        models=("bilstm", "transformer"),
        noise={"flat": (0.4, 0.8, 1.6), "edp-sgd": (0.8,)},
        options={"rounds": 30, "evaluate_every": 30},
        epochs=10,
        seeds=1,
        turns=5,
    ),
}

_WAYS: dict[Clipping, str] = {"flat": OURS, "edp-sgd": EDP}


def preset_options(preset: Preset, given: Mapping[str, Any] | None = None) -> list[RunOptions]:
    """The options a preset runs with, for every corpus and model.

    Args:
      preset: "quick" or "paper".
      given: fields of `RunOptions` that the caller sets; they win over the preset. A corpus or
        a model among them is then the only one.

    Example:
      >>> [(o.corpus, o.model) for o in preset_options("paper", {"model": "bilstm"})]
      [('snips', 'bilstm'), ('massive', 'bilstm')]
    """
    size, given = chosen(PRESETS, preset), given or {}
    corpora = [given["corpus"]] if "corpus" in given else list(size.corpora)
    models = [given["model"]] if "model" in given else list(size.models)
    return [
        run_options(
            {**size.options, **size.corpora.get(corpus, {}), "corpus": corpus, "model": model},
            given,
        )
        for corpus in corpora
        for model in models
    ]


def dpsgd(
    options: Sequence[RunOptions] | None = None,
    preset: Preset = "quick",
    seeds: int | None = None,
    out: Path | str = "runs/dpsgd",
    processes: int | None = None,
) -> Table:
    """Train and time private steps; measure and run what is missing under `out`.

    Args:
      options: one for every corpus and model; a row sets its own privacy and seed, counted from
        that of the first. Default: `preset_options(preset)`.
      preset: "quick": one model, two noise levels. "paper": two corpora, two models, three levels.
      seeds: runs a row, >= 1; default: the preset's.
      out: the experiment's folder. A second call with the same arguments goes on where the first
        stopped.
      processes: runs at a time; default: the number of cores. Results do not depend on it; steps
        are timed one at a time, before anything is run.

    Raises:
      ConfigError: options that cannot be run, a folder with other runs or measurements, or runs
        that failed.
    """
    from experiments.dpsgd_costs import step_costs

    options = preset_options(preset) if options is None else options
    size, each = chosen_with_seeds(PRESETS, preset, seeds, options[0].seed)
    cases = cases_of(options, size.epochs)
    costs = []
    for case in cases:
        print(f"steps of {case.name}", file=sys.stderr)
        costs.append(step_costs(case, Path(out) / "steps", size.turns))
    rows = [rows_of(case, size.noise) for case in cases]
    runs = runs_of([row for own in rows for row in own], each, out, processes)
    lines = list[Line]()
    for case, cost, own in zip(cases, costs, rows, strict=True):
        lines += lines_of(case, cost, own, [runs.pop(0) for _ in own])
    return dpsgd_table(lines)


def lines_of(
    case: Case, costs: Mapping[str, Cost], rows: Sequence[Row], runs: Sequence[Sequence[Run]]
) -> list[Line]:
    """Lines of the rows, then of the ways that are timed alone."""
    o = case.options
    ways = [PLAIN if row.noise is None else _WAYS[row.clipping] for row in rows]
    alone = [way for way in costs if way not in ways]
    found = [*zip(ways, [row.noise for row in rows], runs, strict=True)]
    return [
        Line(
            corpus=o.corpus,
            setting=case.setting,
            model=o.model,
            way=way,
            cost=costs[way],
            noise=noise,
            runs=own,
        )
        for way, noise, own in [*found, *((way, None, ()) for way in alone)]
    ]
