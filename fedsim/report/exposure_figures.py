"""What leaks, drawn: round by round beside epsilon, as ROC curves, and by activity.

Each function takes rows of the table and returns a matplotlib figure, a panel a setting and policy.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fedsim.leakage.panel import GROUPS
from fedsim.leakage.success import roc
from fedsim.report.exposure import DEVICE, EDP, EXAMPLE, Exposed, by_place, claimed, last_scores
from fedsim.report.style import GREY, in_print_style, legend_above, panels

_COLOURS = {
    EXAMPLE: ("#0072B2", "#56B4E9", "#009E73", "#7A6BB7"),
    EDP: ("#D55E00", "#E69F00"),
    DEVICE: ("#CC79A7", "#8B4513"),
}
"""Of each way to be private, by noise level; without privacy black, clipping alone grey."""

_MARKERS = {EXAMPLE: "s", EDP: "^", DEVICE: "D"}


@in_print_style
def per_round(rows: Sequence[Exposed]) -> Figure:
    """AUC of the attack above where it was measured, the first seed's claimed epsilon below.

    The band is the interval of the row without privacy; those of the others are about as wide.
    """
    places = by_place(rows)
    figure, axes = panels(len(places), height=4.2, rows=2)
    for number, own in enumerate(places):
        above, below = axes[number], axes[number + len(places)]
        for row in own:
            run, style = row.group.runs[0], _style(own, row)
            at = [k for k in range(len(run.rounds)) if row.auc(at=k) is not None]
            found = [e for k in at if (e := row.auc(at=k)) is not None]
            done = [run.rounds[k]["round"] for k in at]
            above.plot(done, [e.mean for e in found], label=row.label, **style)
            if row.noise is None:
                low, high = np.array([(e.low, e.high) for e in found], float).reshape(-1, 2).T
                above.fill_between(done, low, high, color=style["color"], alpha=0.1, linewidth=0)
            if np.isfinite(row.epsilon):
                each = [claimed(row, line) for line in run.rounds]
                below.plot([line["round"] for line in run.rounds], each, **style)
        above.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
        above.set_title("\n".join(own[0].place))
        below.set_yscale("log")
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        below.set_xlabel("round")
    axes[0].set_ylabel("AUC of the attack")
    axes[len(places)].set_ylabel("epsilon claimed")
    legend_above(figure, axes)
    return figure


@in_print_style
def roc_on_log_axes(rows: Sequence[Exposed]) -> Figure:
    """ROC of the attack on the final model of the first seed; dotted is guessing."""
    places = by_place(rows)
    figure, axes = panels(len(places))
    least = 1.0
    for panel, own in zip(axes, places, strict=True):
        for row in own:
            scores, member = last_scores(row.group.runs[0])
            least = min(least, 1 / len(member))
            panel.step(*roc(scores, member), where="post", label=row.label, **_style(own, row))
        panel.set_title("\n".join(own[0].place))
        panel.set_xlabel("false positive rate")
    for panel in axes:
        panel.plot([least, 1], [least, 1], color=GREY, linewidth=0.6, linestyle=":")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlim(2 * least, 1)
        panel.set_ylim(2 * least, 1)
    axes[0].set_ylabel("true positive rate")
    legend_above(figure, axes)
    return figure


@in_print_style
def by_activity(rows: Sequence[Exposed]) -> Figure:
    """AUC with its interval among light, middle and heavy devices, at the end."""
    places = by_place(rows)
    figure, axes = panels(len(places))
    for panel, own in zip(axes, places, strict=True):
        for number, row in enumerate(own):
            found = [(k, row.auc(group)) for k, group in enumerate(GROUPS)]
            shift = 0.7 * ((number + 0.5) / len(own) - 0.5)
            for k, e in found:
                if e is not None and e.low is not None and e.high is not None:
                    panel.errorbar(
                        k + shift, e.mean, [[e.mean - e.low], [e.high - e.mean]], elinewidth=0.8,
                        marker=_MARKERS.get(row.privacy, "o"), markersize=3, linestyle="none",
                        color=_style(own, row)["color"], label=row.label,
                    )  # fmt: skip
        panel.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
        panel.set_title("\n".join(own[0].place))
        panel.set_xticks(range(len(GROUPS)), GROUPS)
        panel.set_xlim(-0.5, len(GROUPS) - 0.5)
        panel.set_xlabel("devices")
    axes[0].set_ylabel("AUC of the attack")
    legend_above(figure, axes)
    return figure


def _style(own: Sequence[Exposed], row: Exposed) -> dict[str, Any]:
    """Keyword arguments of a row's line, the same in every panel."""
    if not row.noise:
        colour, line = ("#000000", "-") if row.noise is None else (GREY, "--")
        return {"color": colour, "linestyle": line, "linewidth": 1.2}
    alike = [r for r in own if r.privacy == row.privacy and r.noise]
    colours = _COLOURS[row.privacy]
    return {"color": colours[alike.index(row) % len(colours)], "linewidth": 1.0}
