"""How do selection policies compare: one table row a group of runs, measured against uniform.

Runs go in, a `Table` with notes and figures comes out; nothing else is read.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fedsim.report.curves import ACCURACY, CENTRAL, Axis, Group
from fedsim.report.effects import (
    baseline,
    error_change,
    error_change_at_equal_examples,
    plain,
    reaching,
)
from fedsim.report.notes import FEWEST, caption, notes, utterances
from fedsim.report.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = (
    Column("setting", "setting", label=True),
    Column("selection", "selection", label=True),
    Column("weighting", "weighting", label=True),
    Column("seeds", "seeds", "count"),
    Column("intent_accuracy", "intent acc. %", "percent"),
    Column("slot_f1", "slot F1 %", "percent"),
    Column("exact_match", "exact match %", "percent"),
    Column("error_change", "error vs uniform %", "change"),
    Column("error_change_equal_examples", "at equal examples", "change"),
    Column("rounds_to_target", "rounds to T", "reach"),
    Column("examples_to_target", "examples to T", "reach"),
    Column("lightest_decile", "light %", "share"),
    Column("heaviest_decile", "heavy %", "share"),
    Column("forgetting", "forgets %", "share"),
)

_DECILES = {"lightest_decile": 1, "heaviest_decile": 10}
"""Columns of tenths of the people."""


def comparison_table(groups: Sequence[Group]) -> Table:
    """The table of finished runs, with its notes and figures.

    Args:
      groups: one row each, one or more; where a policy ran under several weightings in a setting,
        its own weighting comes first. Columns that no row measured are left out.
    """
    uniform = plain(groups, "static", "uniform")
    final = uniform.final(ACCURACY) if uniform is not None else None
    target = 0.9 * final.mean if final is not None else None
    comparisons = len({group.selection for group in groups} - {"uniform", CENTRAL}) or 1
    rows = [_row(group, baseline(groups, group), target, comparisons) for group in groups]
    # All rows have one test set, so what one of them knows of its size holds for the others.
    noise = {key for key, decile in _DECILES.items() if _too_few(groups, decile)}
    rows = [{key: value for key, value in row.items() if key not in noise} for row in rows]
    return Table(
        columns=[c for c in _COLUMNS if c.key in noise or any(_filled(row, c) for row in rows)],
        rows=rows,
        caption=caption(groups),
        notes=notes(groups, target, comparisons),
        drawings=_drawings(groups),
    )


def _row(
    group: Group, against: Group | None, target: float | None, comparisons: int
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "setting": group.setting,
        "selection": group.label,
        "weighting": group.weighting or None,
        "seeds": len(group.runs),
        "intent_accuracy": group.final(ACCURACY),
        "slot_f1": group.final("slot_f1"),
        "exact_match": group.final("exact_match"),
        **{key: group.final(f"deciles/{ACCURACY}_{k}") for key, k in _DECILES.items()},
    }
    if group.setting == "continual":
        row["forgetting"] = group.final("forgetting/intent_accuracy")
    if against is not None and against is not group:
        row["error_change"] = error_change(group, against, comparisons)
        row["error_change_equal_examples"] = error_change_at_equal_examples(
            group, against, comparisons
        )
    if target is not None:
        row["examples_to_target"] = reaching(group, "examples", target)
        if group.selection != CENTRAL:
            row["rounds_to_target"] = reaching(group, "rounds", target)
    return row


def _too_few(groups: Sequence[Group], decile: int) -> bool:
    """Whether a decile is known to have too few test utterances for a figure."""
    count = utterances(groups, decile)
    return count is not None and count < FEWEST


def _filled(row: Mapping[str, Any], column: Column) -> bool:
    return row.get(column.key) is not None


def _drawings(groups: Sequence[Group]) -> dict[str, "Callable[[], Figure]"]:
    """Figures of every policy under its own weighting."""
    names = dict.fromkeys((group.setting, group.selection) for group in groups)
    shown = [group for name in names if (group := plain(groups, *name)) is not None]
    axes: tuple[Axis, ...] = ("rounds", "examples", "participations")
    drawings: dict[str, Callable[[], Figure]] = {
        f"curves-over-{axis}": partial(_curves, shown, axis) for axis in axes
    }
    if any(group.setting == "continual" for group in shown):
        drawings["catch-up"] = partial(_catch_up, shown)
    setting = shown[0].setting
    drawings["rates"] = partial(_rates, [group for group in shown if group.setting == setting])
    return drawings


# matplotlib takes a second to import: it is, when a figure is wanted.


def _curves(groups: Sequence[Group], axis: Axis) -> "Figure":
    from fedsim.report.figures import learning_curves

    return learning_curves(groups, axis)


def _catch_up(groups: Sequence[Group]) -> "Figure":
    from fedsim.report.figures import catch_up

    return catch_up(groups)


def _rates(groups: Sequence[Group]) -> "Figure":
    from fedsim.report.figures import rates_over_activity

    return rates_over_activity(groups)
