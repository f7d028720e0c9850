"""Which runs does a recipe ask for, and which of them are still to be made?

A recipe is a TOML file. `[options]` holds options of `fedsim run` that all runs share, `[grid]` the
values of those that vary, as lists; every combination is one run. Options that do not go with each
other are listed in several `[[grid]]` tables.

    [options]
    corpus = "home"
    rounds = 40

    [grid]
    selection = ["uniform", "activity"]
    seed = [0, 1, 2]

A run's folder is named after its values, so that a grid can grow without repeating any.
"""

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from experiments.arguments import option_value
from experiments.cells import Cell, carry_on
from experiments.options import check_options
from experiments.run_options import RunOptions
from fedsim.errors import ConfigError, did_you_mean, require
from fedsim.record import Run, is_finished

_HINTS = {name.replace("_", "-"): hint for name, hint in get_type_hints(RunOptions).items()}
"""Types of the options, by their names on the command line."""

LONGEST = 160
"""Characters of a folder's name."""


def cells_of(recipe: Path) -> list[Cell]:
    """The runs that a recipe asks for, seed by seed: an interruption leaves whole comparisons.

    Args:
      recipe: the TOML file.

    Raises:
      ConfigError: it is no TOML, names unknown options, lists the same run twice, or a run whose
        options cannot be.
    """
    try:
        tables = tomllib.loads(recipe.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{recipe} is no TOML: {error}; correct it there") from None
    for name in tables:
        require(
            name in ("options", "grid"),
            f"{recipe} has {name!r}{did_you_mean(name, ('options', 'grid'))}; expected [options], "
            "which all runs share, and [grid] or several [[grid]], whose lists vary",
        )
    options, grids = tables.get("options", {}), tables.get("grid", {})
    grids = grids if isinstance(grids, list) else [grids]
    for table, where in ((options, "[options]"), *((grid, "[grid]") for grid in grids)):
        _check_table(table, f"{recipe}, {where}")
    cells = [cell for grid in grids for cell in _grid(options, grid, recipe)]
    seen: dict[RunOptions, str] = {}
    for cell in cells:
        other = seen.setdefault(cell.options, cell.name)
        require(
            other is cell.name,
            f"{recipe} asks for the same run twice: {other} and {cell.name}; leave one out",
        )
    return sorted(cells, key=lambda cell: cell.options.seed)


def run_cells(
    cells: Sequence[Cell], out: Path | str, processes: int | None = None
) -> dict[str, Run | BaseException]:
    """Run what is missing under `out / "runs"`, each from where it stopped.

    Args:
      cells: of a recipe.
      out: the sweep's folder.
      processes: runs at a time; default: the number of cores. Results do not depend on it. With
        more than one, a script needs the usual `if __name__ == "__main__":` guard.

    Returns:
      Cell name to run, or to the error that it failed with.

    Raises:
      ConfigError: before anything is run, a folder with runs of other options, or that another
        process works in.
    """
    processes = os.cpu_count() or 1 if processes is None else processes
    require(processes >= 1, f"processes is {processes}; choose 1 or more")
    flower = [cell.name for cell in cells if cell.options.engine == "flower"]
    require(
        processes == 1 or not flower,
        f"{''.join(flower[:1])} has engine 'flower', which starts processes of its own; run one at "
        "a time with --processes 1",
    )
    return carry_on(cells, Path(out) / "runs", processes)


def listing(cells: Sequence[Cell], out: Path | str) -> str:
    """A line for every run: how far it is, and its name; the totals above."""
    states = [_state(Path(out) / "runs" / cell.name) for cell in cells]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    total = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [f"  {state:<11}  {c.name}" for state, c in zip(states, cells, strict=True)]
    return "\n".join([f"{len(cells)} runs in {Path(out) / 'runs'}: {total}", *lines])


def _state(path: Path) -> str:
    if is_finished(path):
        return "finished"
    return "interrupted" if (path / "config.json").is_file() else "new"


def _check_table(table: Any, where: str) -> None:
    """Refuse what is no table of options."""
    require(isinstance(table, Mapping), f"{where} is {table!r}; expected a table of options")
    for name in table:
        plain = name.replace("_", "-")
        require(
            plain != "out", f"{where} has {name!r}, but a run's folder is named after its values"
        )
        require(
            plain in _HINTS,
            f"{where} has unknown option {name!r}{did_you_mean(plain, _HINTS)}; the keys are the "
            "options of fedsim run",
        )


def _grid(shared: Mapping[str, Any], grid: Mapping[str, Any], recipe: Path) -> list[Cell]:
    """Every combination of a grid's values, the first key varying slowest."""
    common = {_field(name): _value(name, value, recipe) for name, value in shared.items()}
    varying: dict[str, list[Any]] = {}
    for name, values in grid.items():
        require(
            isinstance(values, list) and len(values) > 0,
            f"{recipe}, [grid]: {name} is {values!r}; expected a list of one value or more",
        )
        require(
            _field(name) not in common,
            f"{recipe} has {name} in [options] and in [grid]; leave one out",
        )
        varying[_field(name)] = [_value(name, value, recipe) for value in values]
    return [
        _cell(common, dict(zip(varying, values, strict=True)), recipe)
        for values in product(*varying.values())
    ]


def _cell(common: Mapping[str, Any], own: Mapping[str, Any], recipe: Path) -> Cell:
    name = cell_name(own)
    try:
        options = RunOptions(**{**common, **own})
        check_options(options)
    except ConfigError as error:
        raise ConfigError(f"{recipe}, run {name}: {error}") from None
    return Cell(name=name, options=options)


def cell_name(values: Mapping[str, Any]) -> str:
    """The folder of a run, after the values that set it apart.

    Where a value has no place in a file's name, or the name would be too long, a digest of the
    values follows.

    Example:
      >>> cell_name({"selection": "uniform", "noise_multiplier": 0.5, "seed": 1})
      'selection-uniform_noise-multiplier-0.5_seed-1'
      >>> cell_name({"corpus": "my data/talk.csv"})
      'corpus-my-data-talk.csv_8b4e7aee'
    """
    parts = [f"{name.replace('_', '-')}-{value}" for name, value in values.items()]
    exact = "_".join(parts) or "run"
    safe = re.sub(r"[^\w.,+-]", "-", exact, flags=re.ASCII)[:LONGEST]
    if safe == exact:
        return safe
    return f"{safe}_{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _field(name: str) -> str:
    return name.replace("-", "_")


def _value(name: str, value: Any, recipe: Path) -> Any:
    require(
        isinstance(value, str | int | float),
        f"{recipe}: {name} holds {value!r}; expected a single text, number or truth value there, "
        "and lists of them in [grid]",
    )
    plain = name.replace("_", "-")
    try:
        return option_value(plain, value, _HINTS[plain])
    except ConfigError as error:
        raise ConfigError(f"{recipe}: {error}") from None
