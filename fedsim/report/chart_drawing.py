"""How a chart's numbers become a figure: one column wide, told apart in grey and colour-blind.

Colours are Okabe and Ito's in an order that keeps neighbours apart, every line with a dash pattern
of its own; a chart of selection policies has the policies' own.
"""

import textwrap
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fedsim.report.charts import Chart, Series
from fedsim.report.style import (
    COLUMN,
    GREY,
    POLICIES,
    in_print_style,
    labels_per_row,
    legend_above,
    panels,
)

_ORDER: tuple[tuple[str, Any, str], ...] = (
    ("#0072B2", "-", "o"),
    ("#D55E00", (0, (5, 1.5)), "s"),
    ("#009E73", (0, (3, 1, 1, 1)), "^"),
    ("#CC79A7", (0, (1.5, 1)), "D"),
    ("#000000", (0, (6, 1, 1, 1, 1, 1)), "v"),
    ("#E69F00", (0, (4, 1, 1, 1)), "P"),
    ("#56B4E9", (0, (2, 1)), "X"),
    ("#7A6BB7", (0, (1, 1)), "p"),
)
"""Colour, line style and marker of each series, by position."""

FEW = 24
"""Points up to which a line shows where it was measured."""

LABEL = 44
"""Characters of a line of a legend."""

MOST_TICKS = 12
"""Whole numbers up to which each has a tick."""


@in_print_style
def drawn(chart: Chart) -> Figure:
    """The figure of a chart."""
    if chart.kind == "cells":
        return _cells(chart)
    labels = [one.label for one in chart.series] + [level.label for level in chart.levels]
    names = [_wrapped(label) for label in labels]
    shown = names if len(names) > 1 else []
    rows = -(-len(shown) // labels_per_row(COLUMN, shown)) if shown else 0
    lines = rows * max((name.count("\n") + 1 for name in shown), default=0)
    figure, (panel,) = panels(1, height=2.35 + 0.16 * lines)
    for position, one in enumerate(_side_by_side(chart)):
        _DRAW[chart.kind](panel, one, _look(one.look, position))
    for level in chart.levels:
        grey = (GREY, "--", "")
        colour, dashes, _ = grey if level.look is None else _look(level.look, 0)
        panel.axhline(
            level.y, color=colour, linestyle=dashes, linewidth=0.9, label=_wrapped(level.label)
        )
    if chart.diagonal:
        least = min(min(one.x.min(), one.y.min()) for one in chart.series)
        panel.plot([least, 1], [least, 1], color=GREY, linestyle="--", linewidth=0.9)
    _axes(panel, chart)
    if shown:
        legend_above(figure, [panel])
    return figure


def _wrapped(label: str) -> str:
    """A label in as many lines as it needs to stay inside the figure."""
    return "\n".join(textwrap.wrap(label, LABEL)) or label


def _side_by_side(chart: Chart) -> list[Series]:
    """Points at whole numbers are moved a little, so that bars of several series do not overlap."""
    series = list(chart.series)
    if chart.kind != "points" or not all(np.array_equal(s.x, np.round(s.x)) for s in series):
        return series
    step = min(0.12, 0.6 / len(series))
    return [
        replace(one, x=one.x + (position - (len(series) - 1) / 2) * step)
        for position, one in enumerate(series)
    ]


def _look(look: str | int | None, position: int) -> tuple[str, Any, str]:
    if isinstance(look, str) and look in POLICIES:
        return POLICIES[look]
    return _ORDER[(look if isinstance(look, int) else position) % len(_ORDER)]


def _line(panel: Axes, one: Series, look: tuple[str, Any, str]) -> None:
    colour, dashes, marker = look
    panel.plot(
        one.x, one.y, color=colour, linestyle=dashes, linewidth=1.4, label=_wrapped(one.label),
        marker=marker if len(one.x) <= FEW else "", markersize=3,
    )  # fmt: skip
    if one.low is not None and one.high is not None:
        panel.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15, linewidth=0)


def _points(panel: Axes, one: Series, look: tuple[str, Any, str]) -> None:
    colour, _, marker = look
    bars = None
    if one.low is not None and one.high is not None:
        bars = np.maximum([one.y - one.low, one.high - one.y], 0)
    panel.errorbar(
        one.x, one.y, yerr=bars, color=colour, marker=marker, linestyle="none",
        markersize=4 if len(one.x) <= FEW else 2.5, linewidth=0.9, label=_wrapped(one.label),
    )  # fmt: skip


def _steps(panel: Axes, one: Series, look: tuple[str, Any, str]) -> None:
    colour, dashes, _ = look
    panel.fill_between(one.x, one.y, step="post", color=colour, alpha=0.25, linewidth=0)
    panel.step(
        one.x,
        one.y,
        where="post",
        color=colour,
        linestyle=dashes,
        linewidth=1.2,
        label=_wrapped(one.label),
    )


_DRAW = {"line": _line, "points": _points, "steps": _steps}


def _axes(panel: Axes, chart: Chart) -> None:
    panel.set_xlabel(chart.x)
    panel.set_ylabel(chart.y)
    for name, axis in (("x", panel.xaxis), ("y", panel.yaxis)):
        if name in chart.log:
            (panel.set_xscale if name == "x" else panel.set_yscale)("log")
            axis.set_major_locator(LogLocator(10))
            axis.set_minor_formatter(NullFormatter())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if "x" not in chart.log:
        _ticks(panel, chart)
    if "y" not in chart.log:
        low, high = panel.get_ylim()
        if chart.zero:
            low, high = 0.0, 1.04 * high
        panel.set_ylim(low, high if chart.most is None else min(high, 1.01 * chart.most))


def _ticks(panel: Axes, chart: Chart) -> None:
    """Rounds, deciles and periods are whole numbers, and so are their ticks."""
    at = np.unique(np.concatenate([one.x for one in chart.series]))
    whole = chart.kind != "steps" and np.array_equal(at, np.round(at))
    if whole and len(at) <= MOST_TICKS:
        panel.set_xticks(at)
        panel.set_xlim(at[0] - 0.5, at[-1] + 0.5)
    else:
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))


def _cells(chart: Chart) -> Figure:
    figure, (panel,) = panels(1, height=2.5)
    x = chart.series[0].x
    edges = np.append(x, x[-1] + (x[-1] - x[-2] if len(x) > 1 else 1)) - 0.5
    rows = np.arange(len(chart.series) + 1) + 0.5
    # Cividis reads the same with every common colour blindness and in grey.
    mesh = panel.pcolormesh(
        edges, rows, np.array([one.y for one in chart.series]), cmap="cividis", vmin=0
    )
    panel.grid(False)
    panel.set_xlabel(chart.x)
    panel.set_ylabel(chart.y)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(mesh, ax=panel, pad=0.02)
    bar.outline.set_visible(False)
    # It would stand as a picture among the vectors.
    assert bar.solids is not None
    bar.solids.set_rasterized(False)
    return figure
