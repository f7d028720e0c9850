"""How figures of ours look in print, and how one becomes a file.

Sizes are those of a paper's column and page, so that 8-point text is 8 points on paper. Colours are
Okabe and Ito's, told apart with every common colour blindness; line styles tell the policies apart
in grey. Figures are objects: no pyplot, no global state left behind.
"""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches: one column, the whole page."""

GREY = "#6b6b6b"

POLICIES: dict[str, tuple[str, Any, str]] = {
    "uniform": ("#000000", "-", "o"),
    "activity": ("#D55E00", "-", "s"),
    "log": ("#0072B2", (0, (5, 1.5)), "^"),
    "sqrt": ("#009E73", (0, (3, 1, 1, 1)), "D"),
    "softmax": ("#CC79A7", (0, (1.5, 1)), "v"),
    "top": ("#E69F00", (0, (6, 1, 1, 1, 1, 1)), "P"),
    "activity, cap 0.1": ("#56B4E9", (0, (4, 1, 1, 1)), "X"),
    "activity^2": ("#8B4513", (0, (2, 1)), "*"),
    "budgets": ("#7A6BB7", (0, (1, 1)), "p"),
}
"""Colour, line style and marker of each selection policy, the same in every figure."""

_PRINT: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    # The same figure gives the same file.
    "svg.hashsalt": "fedsim",
    "svg.fonttype": "none",
}

in_print_style = matplotlib.rc_context(_PRINT)
"""Decorator of a function that draws a figure."""


def panels(
    count: int, height: float = 2.6, sharey: bool = True, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels side by side; one takes a column, more the page's width.

    Args:
      count: panels in a row.
      height: of the figure in inches.
      sharey: whether the panels of a row have one axis.
      rows: of panels; the list goes on with the second row after the first.
    """
    figure = Figure(figsize=(COLUMN if count == 1 else PAGE, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, count, sharey="row" if sharey else False, squeeze=False)
    return figure, [panel for row in grid for panel in row]


def line_style(policy: str) -> dict[str, Any]:
    """Keyword arguments of a policy's line; a policy we do not know is grey."""
    colour, style, _ = POLICIES.get(policy, (GREY, "-", "o"))
    return {"color": colour, "linestyle": style, "linewidth": 1.4}


def point_style(policy: str) -> dict[str, Any]:
    """Keyword arguments of a policy's points."""
    colour, _, marker = POLICIES.get(policy, (GREY, "-", "o"))
    return {"color": colour, "marker": marker, "markersize": 3.2, "linewidth": 0.9}


def legend_above(figure: Figure, axes: list[Axes]) -> None:
    """One legend for all panels, each label once, above them, as wide as there is room."""
    found: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    per_row = labels_per_row(figure.get_figwidth(), list(found))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside upper center",
        ncols=min(len(found), per_row),
        handlelength=2.4,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def labels_per_row(width: float, labels: list[str]) -> int:
    """Labels that fit side by side above a figure, >= 1.

    Args:
      width: of the figure, in inches.
      labels: all of them; the longest decides.
    """
    # Inches of the longest label at 8 points, and of its handle.
    lines = (line for label in labels for line in label.split("\n"))
    longest = 0.058 * max(map(len, lines), default=0) + 0.45
    return min(7 if width > COLUMN else 3, max(1, int(width // longest)))


def image(figure: Figure, kind: str) -> bytes:
    """A figure as a "png" of 200 dots an inch or an "svg", the same bytes every time."""
    out = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_PRINT):
        figure.savefig(out, format=kind, dpi=200, metadata=metadata)
    return out.getvalue()
