"""Which runs belong together, as seeds of one row, and what sets the rows apart?

Runs whose options differ in the seed alone are one group. A group is named after its selection
policy and whatever other options differ between the groups, so that two runs read as "uniform,
dp none" and "uniform, dp device".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError
from fedsim.record.run import Run, is_finished, load_run
from fedsim.report.curves import CENTRAL, Group

_APART = frozenset(
    {
        *("seed", "recipe", "environment", "simulation", "central"),
        *("workers", "data", "evaluate_every", "leakage_every", "checkpoint_every", "vocabulary"),
        "tracker",
        *("selection", "power", "cap", "temperature", "budgets"),
    }
)
"""What sets no group apart: seeds, where and how often, and what the policy's label says."""

_BARE = frozenset({"setting", "corpus", "model", "strategy", "selection_label"})
"""Options whose value says what it is a value of."""


_CONTINUAL = ("periods", "by", "keep")
"""Options that say nothing of static runs."""

_PRIVATE = (
    *("noise_multiplier", "clip_norm", "example_noise_multiplier", "example_clip_norm"),
    *("clipping", "noise_decay", "dp_backend", "epsilon", "delta", "max_participations"),
    *("adjacency", "scale", "weight_cap", "denominator", "example_cap", "smallest_rate"),
    *("device_budget", "run_budget", "secure_noise"),
)
"""Options that say nothing of runs without privacy."""


def runs_in(folders: Sequence[Path]) -> list[Run]:
    """Finished runs of folders, each a run's or one that holds runs up to two levels below.

    Raises:
      ConfigError: a folder holds none, or a file of a run is damaged.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        below = sorted(
            path.parent
            for pattern in ("summary.json", "*/summary.json", "*/*/summary.json")
            for path in folder.glob(pattern)
        )
        finished = [path for path in below if is_finished(path)]
        if not finished:
            raise ConfigError(
                f"{folder} holds no finished run (config.json and summary.json); name the folder "
                "of a run that reached its end, or one that holds such folders"
            )
        found |= {path.resolve(): None for path in finished}
    return [load_run(path) for path in found]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups of runs that differ in the seed alone, in the order of their first runs.

    Raises:
      ConfigError: two runs of one group have the same seed: a run was named twice.
    """
    options = [options_of(run) for run in runs]
    names = dict.fromkeys(key for each in options for key in each)
    varying = {
        name
        for name in names
        if len({repr(each.get(name)) for each in options if name not in _idle(each)}) > 1
    }
    rows: dict[str, list[Run]] = {}
    for run, each in zip(runs, options, strict=True):
        rows.setdefault(repr([each.get(name) for name in sorted(varying)]), []).append(run)
    return [_group(row, varying) for row in rows.values()]


def options_of(run: Run) -> dict[str, Any]:
    """What sets a run apart from others, the seed left out: its options, or a script's objects."""
    config = run.config
    found = {name: value for name, value in config.items() if name not in _APART}
    if config.get("recipe") is None:
        found |= _leaves(
            {
                name: config.get("simulation", {}).get(name)
                for name in ("population", "client", "schedule", "faults")
            }
        )
        found["strategy"] = strategy_of(run)
    if "central" in config:
        found["selection_label"] = CENTRAL
    return found


def strategy_of(run: Run) -> str:
    """Classes of the strategy, outermost first, such as "Selective(FedAvg)"."""
    names, inner = [], run.config.get("simulation", {}).get("strategy")
    while isinstance(inner, Mapping) and "class" in inner:
        names.append(str(inner["class"]))
        inner = inner.get("strategy")
    return "(".join(names) + ")" * (len(names) - 1)


def _group(runs: list[Run], varying: set[str]) -> Group:
    options = options_of(runs[0])
    seeds = [run.config["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        where = " and ".join(str(r.path) for r in runs if r.config["seed"] == twice)
        raise ConfigError(
            f"{where} have the same options and seed {twice}; name one of them, or runs that differ"
        )
    # A weighting follows the policy unless it alone tells two rows apart.
    told = [n for n in varying if n not in ("selection_label", "weighting", "rounds")]
    if "selection_label" not in varying:
        told += [name for name in ("weighting", "rounds") if name in varying]
    order = [name for name in options if name in told and name not in _idle(options)]
    central = options.get("selection_label") == CENTRAL
    return Group(
        setting=options.get("setting", "static"),
        selection=options.get("selection_label", "none"),
        weighting="" if central else options.get("weighting", ""),
        variant=", ".join(_said(name, options[name]) for name in order),
        runs=runs,
    )


def _idle(options: Mapping[str, Any]) -> set[str]:
    """Options that say nothing of a run with these, whatever their values."""
    return {
        *(_CONTINUAL if options.get("setting") == "static" else ()),
        *(_PRIVATE if options.get("dp") == "none" else ()),
    }


def _said(name: str, value: Any) -> str:
    if name in _BARE:
        return str(value)
    plain = name.replace("_", " ")
    if isinstance(value, bool):
        return plain if value else f"no {plain}"
    shown = f"{value:g}" if isinstance(value, float) else "none" if value is None else value
    return f"{plain} {shown}"


def _leaves(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{above}{name} ")
        else:
            found[f"{above}{name}"] = value
    return found
