"""What the price of activity looks like drawn: who pays how much, and what accuracy it buys.

Each function takes rows of runs and returns a matplotlib figure, a panel a setting.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedsim.report.price import Priced, activity_of
from fedsim.report.price_examples import PricedExamples
from fedsim.report.style import GREY, in_print_style, legend_above, line_style, panels, point_style

MARKERS = {"public scale": "D", "retirement": "v", "per client": "h"}
"""Markers of rows that are a variant of a policy, in its colour."""

GROUPS = 12
"""Groups of devices, alike in activity, whose mean is a point of a curve at example level."""


@in_print_style
def epsilon_over_activity(rows: Sequence[Priced]) -> Figure:
    """Exact epsilons of devices spread over activity, one curve a policy at equal noise."""
    settings = list(dict.fromkeys(row.group.setting for row in rows))
    figure, axes = panels(len(settings))
    for panel, setting in zip(axes, settings, strict=True):
        for row in rows:
            group = row.group
            curve = row.held in ("both", "noise") and group.weighting == "equal"
            if group.setting == setting and curve and not group.variant:
                run = group.runs[0]
                ledger = run.arrays("ledger")
                held = activity_of(run)[ledger["devices"]]
                order = np.argsort(held, kind="stable")
                panel.plot(
                    held[order],
                    np.asarray(ledger["epsilon"])[order],
                    label=group.selection,
                    **line_style(group.selection),
                )
        panel.set_title(setting)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("activity (examples on the device)")
        _plain_numbers(panel.xaxis)
        _plain_numbers(panel.yaxis)
    axes[0].set_ylabel("epsilon at equal noise")
    legend_above(figure, axes)
    return figure


@in_print_style
def accuracy_over_epsilon(rows: Sequence[Priced]) -> Figure:
    """Final accuracy against the worst device's epsilon; filled at equal epsilon.

    Intervals over seeds stand at the open points; those of the filled ones, which lie above each
    other, are in `accuracy_at_equal_epsilon`.
    """
    settings = list(dict.fromkeys(row.group.setting for row in rows))
    figure, axes = panels(len(settings))
    for panel, setting in zip(axes, settings, strict=True):
        for row in rows:
            group, accuracy = row.group, row.accuracy
            if group.setting != setting or accuracy is None:
                continue
            if row.held == "none":
                panel.axhline(
                    100 * accuracy.mean, color=GREY, linestyle="--", linewidth=0.9,
                    label="without privacy",
                )  # fmt: skip
                continue
            style = point_style(group.selection) | {"linestyle": "none"}
            style["marker"] = MARKERS.get(group.variant, style["marker"])
            if row.held == "noise":
                style["markerfacecolor"] = "none"
            shown = group.label if row.held != "noise" and group.weighting == "equal" else None
            panel.plot([row.epsilon], [100 * accuracy.mean], label=shown, **style)
            if row.held == "noise" and accuracy.low is not None and accuracy.high is not None:
                ends = 100 * accuracy.low, 100 * accuracy.high
                panel.vlines(row.epsilon, *ends, color=style["color"], linewidth=0.6)
        panel.set_title(setting)
        panel.set_xscale("log")
        panel.set_xlabel("epsilon of the worst device")
        _plain_numbers(panel.xaxis)
    axes[0].set_ylabel("test intent accuracy (%)")
    axes[0].set_ylim(bottom=0)
    legend_above(figure, axes)
    return figure


@in_print_style
def accuracy_at_equal_epsilon(rows: Sequence[Priced]) -> Figure:
    """Final accuracy of every row at equal epsilon, a line each, with intervals over seeds."""
    settings = list(dict.fromkeys(row.group.setting for row in rows))
    equal = [row for row in rows if row.held in ("both", "epsilon") and row.accuracy is not None]
    names = list(dict.fromkeys(_line(row) for row in equal))
    figure, axes = panels(len(settings), height=0.9 + 0.16 * len(names))
    for panel, setting in zip(axes, settings, strict=True):
        for row in equal:
            accuracy = row.accuracy
            if row.group.setting != setting or accuracy is None:
                continue
            style, at = point_style(row.group.selection), names.index(_line(row))
            style["marker"] = MARKERS.get(row.group.variant, style["marker"])
            panel.plot([100 * accuracy.mean], [at], **style | {"linestyle": "none"})
            if accuracy.low is not None and accuracy.high is not None:
                ends = 100 * accuracy.low, 100 * accuracy.high
                panel.hlines(at, *ends, color=style["color"], linewidth=0.9)
        panel.set_title(setting)
        panel.set_xlabel("test intent accuracy (%)")
        panel.set_xlim(left=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _line(row: Priced) -> str:
    """What the line of a row is called; equal weights go without saying."""
    weighting = row.group.weighting
    return row.group.label if weighting == "equal" else f"{row.group.label}, {weighting}"


@in_print_style
def example_epsilon_over_activity(rows: Sequence[PricedExamples]) -> Figure:
    """Mean realised epsilons of examples by activity, one curve a policy at equal noise."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    figure, axes = panels(len(settings))
    for panel, setting in zip(axes, settings, strict=True):
        for row in rows:
            if row.setting == setting and row.held in ("both", "noise"):
                ranked = np.argsort(row.activity, kind="stable")
                ranked = ranked[row.activity[ranked] > 0]
                parts = np.array_split(ranked, min(GROUPS, len(ranked)))
                panel.plot(
                    [np.median(row.activity[part]) for part in parts],
                    [row.epsilons[part].mean() for part in parts],
                    label=row.selection,
                    **line_style(row.selection),
                )
        panel.set_title(setting)
        panel.set_xscale("log")
        panel.set_xlabel("activity (examples on the device)")
        _plain_numbers(panel.xaxis)
    axes[0].set_ylabel("mean epsilon at equal noise")
    axes[0].set_ylim(bottom=0)
    legend_above(figure, axes)
    return figure


def _plain_numbers(axis: Axis) -> None:
    """1, 2, 5, 10, 20, ... on a logarithmic axis, without exponents."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
