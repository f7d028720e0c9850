"""What a comparison of policies looks like drawn: curves, catch-up, who is drawn how often.

Lines are means over seeds, bands 95 % intervals. Each function takes groups of runs and returns a
matplotlib figure; settings stand side by side with one scale.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fedsim.report.curves import ACCURACY, CENTRAL, Axis, Group, band
from fedsim.report.effects import plain
from fedsim.report.style import (
    GREY,
    in_print_style,
    legend_above,
    line_style,
    panels,
    point_style,
)

_NEVER = 1e-4
"""Rates below this are not drawn: once in ten thousand rounds."""

_AXES = {
    "rounds": "round",
    "examples": "examples processed",
    "participations": "device participations",
}


@in_print_style
def learning_curves(groups: Sequence[Group], axis: Axis) -> Figure:
    """Test intent accuracy against work, a panel a setting.

    Args:
      groups: what to draw; a central group becomes a dashed line at its final accuracy.
      axis: "rounds", "examples" or "participations".
    """
    settings = _settings(groups)
    figure, axes = panels(len(settings))
    for panel, setting in zip(axes, settings, strict=True):
        for group in groups:
            if group.setting == setting and group.selection != CENTRAL:
                _draw_curve(panel, group, axis)
        _draw_level(panel, plain(groups, "static", CENTRAL), "central training")
        panel.set_title(setting)
        panel.set_xlabel(_AXES[axis])
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(FuncFormatter(_short))
    _percent(axes)
    axes[0].set_ylabel("test intent accuracy (%)")
    legend_above(figure, axes)
    return figure


@in_print_style
def catch_up(groups: Sequence[Group]) -> Figure:
    """The continual setting: accuracy over the periods, and at the end on each period's data.

    On the left dotted lines mark where a period ends and its data may go, and a dashed line is
    where uniform selection ended with all data at once.
    """
    figure, (left, right) = panels(2, sharey=False)
    continual = [g for g in groups if g.setting == "continual" and g.selection != CENTRAL]
    for group in continual:
        _draw_curve(left, group, "rounds")
    _draw_level(left, plain(groups, "static", "uniform"), "uniform, static: final")
    lines = continual[0].runs[0].rounds
    for before, after in pairwise(lines):
        if before["period"] != after["period"]:
            left.axvline(before["round"] + 0.5, color=GREY, linestyle=":", linewidth=0.7)
    left.set_xlim(left=0)
    left.set_xlabel("round")
    left.set_ylabel("test intent accuracy (%)")
    left.set_title("all test utterances, period by period")
    periods = max(line["period"] for line in lines)
    for position, group in enumerate(continual):
        _draw_periods(right, group, periods, (position - (len(continual) - 1) / 2) * 0.09)
    right.set_xlabel("period of the test utterances")
    right.set_title("at the end, by period")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent([left, right])
    legend_above(figure, [left])
    return figure


@in_print_style
def rates_over_activity(groups: Sequence[Group]) -> Figure:
    """How many devices hold how much data, and how often each policy draws such a device."""
    figure, (panel,) = panels(1, height=2.9)
    drawn = [group for group in groups if group.selection != CENTRAL]
    activity = np.asarray(drawn[0].runs[0].devices["activity"])[0]
    held = activity[activity > 0]
    edges = np.unique(np.geomspace(1, held.max() + 1, 24).round())
    panel.hist(held, bins=edges.tolist(), color="#d4d4d4", edgecolor="white", linewidth=0.4)
    panel.set_xscale("log")
    panel.set_xlabel("activity (training examples on the device)")
    panel.set_ylabel("devices", color=GREY)
    panel.xaxis.set_major_formatter(FuncFormatter(_short))
    rates_panel = panel.twinx()
    rates_panel.spines["right"].set_visible(True)
    rates_panel.grid(False)
    levels, first = np.unique(activity, return_index=True)
    for group in drawn:
        rates = np.asarray(group.runs[0].cohorts["rates"])[0][first]
        shown = (levels > 0) & (rates >= _NEVER)
        style = line_style(group.selection)
        rates_panel.plot(levels[shown], rates[shown], label=group.selection, **style)
    rates_panel.set_yscale("log")
    rates_panel.set_ylim(max(_NEVER, rates_panel.get_ylim()[0]), 1.3)
    rates_panel.yaxis.set_major_locator(LogLocator(10))
    rates_panel.yaxis.set_minor_locator(NullLocator())
    rates_panel.set_ylabel("participation rate per round")
    legend_above(figure, [rates_panel])
    return figure


def _draw_curve(panel: Axes, group: Group, axis: Axis) -> None:
    points, estimates = band(group, ACCURACY, axis)
    line = panel.plot(
        points,
        [100 * e.mean for e in estimates],
        label=group.selection,
        **line_style(group.selection),
    )
    if all(e.low is not None and e.high is not None for e in estimates):
        low = [100 * e.low for e in estimates if e.low is not None]
        high = [100 * e.high for e in estimates if e.high is not None]
        colour = line[0].get_color()
        panel.fill_between(points, low, high, color=colour, alpha=0.13, linewidth=0)


def _draw_level(panel: Axes, group: Group | None, label: str) -> None:
    level = group.final(ACCURACY) if group is not None else None
    if level is not None:
        panel.axhline(100 * level.mean, color=GREY, linestyle="--", linewidth=0.9, label=label)


def _draw_periods(panel: Axes, group: Group, periods: int, shift: float) -> None:
    """Final accuracy on each period's test utterances, with intervals."""
    for period in range(1, periods + 1):
        level = group.final(f"periods/intent_accuracy_{period}")
        if level is None:
            continue
        half = 0.0 if level.high is None else 100 * (level.high - level.mean)
        panel.errorbar(
            period + shift,
            100 * level.mean,
            yerr=half,
            **point_style(group.selection),
        )


def _settings(groups: Sequence[Group]) -> list[str]:
    """Settings with devices, in the order in which they come."""
    return list(dict.fromkeys(g.setting for g in groups if g.selection != CENTRAL))


def _percent(axes: Sequence[Axes]) -> None:
    for panel in axes:
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, 0), min(high, 100))


def _short(value: float, _: object = None) -> str:
    """A tick's number in few characters: 300, 20k, 1.5M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
