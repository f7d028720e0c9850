"""What example-level privacy costs, drawn: accuracy against epsilon, and time against method.

Each function takes lines of the table and returns a matplotlib figure.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedsim.report.dpsgd import EDP, GHOST, HOOKS, NAIVE, OURS, PLAIN, Line
from fedsim.report.style import in_print_style, legend_above, panels

_COLOURS = {"bilstm": "#0072B2", "transformer": "#D55E00"}
_MARKERS = {OURS: "o", EDP: "s"}
_ORDER = (PLAIN, OURS, GHOST, HOOKS, EDP, NAIVE)


@in_print_style
def accuracy_over_epsilon(lines: Sequence[Line]) -> Figure:
    """Final accuracy against honest epsilon, a panel a corpus and setting.

    Hollow marks are where a naive reading would put eDP-SGD; dashed lines are without privacy.
    """
    places = list(dict.fromkeys((line.corpus, line.setting) for line in lines))
    figure, axes = panels(len(places))
    for panel, place in zip(axes, places, strict=True):
        own = [line for line in lines if (line.corpus, line.setting) == place and line.runs]
        for model in dict.fromkeys(line.model for line in own):
            colour = _COLOURS[model]
            for line in own:
                if line.model == model and line.way == PLAIN and line.accuracy is not None:
                    panel.axhline(
                        100 * line.accuracy.mean, color=colour, linestyle="--", linewidth=0.9,
                        label=f"{model}, {PLAIN}",
                    )  # fmt: skip
            for way, marker in _MARKERS.items():
                found = _points(own, model, way, "epsilon")
                if found:
                    panel.plot(
                        *zip(*found, strict=True), color=colour, marker=marker, markersize=3.6,
                        linewidth=0.9, label=f"{model}, {way}",
                    )  # fmt: skip
            naive = _points(own, model, EDP, "naive")
            if naive:
                panel.plot(
                    *zip(*naive, strict=True), color=colour, marker=_MARKERS[EDP], markersize=3.6,
                    linewidth=0.9, linestyle=":", markerfacecolor="none",
                    label=f"{model}, {EDP} read naively",
                )  # fmt: skip
        panel.set_title(", ".join(place))
        panel.set_xscale("log")
        panel.set_xlabel("epsilon")
        panel.xaxis.set_major_locator(LogLocator(numticks=6))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("test intent accuracy (%)")
    axes[0].set_ylim(bottom=0)
    # One range for all panels, so that what is further to the right costs more.
    ends = [panel.get_xlim() for panel in axes]
    for panel in axes:
        panel.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
    legend_above(figure, axes)
    return figure


@in_print_style
def time_by_method(lines: Sequence[Line]) -> Figure:
    """Time of a step over that of the fastest ordinary one, a panel a corpus and setting."""
    places = list(dict.fromkeys((line.corpus, line.setting) for line in lines))
    models = list(dict.fromkeys(line.model for line in lines))
    figure, axes = panels(len(places))
    height = 0.8 / len(models)
    for panel, place in zip(axes, places, strict=True):
        for number, model in enumerate(models):
            costs = {
                line.way: line.cost.time
                for line in lines
                if (line.corpus, line.setting, line.model) == (*place, model)
            }
            ways = [way for way in _ORDER if way in costs]
            at = [_ORDER.index(way) + (number - (len(models) - 1) / 2) * height for way in ways]
            bars = panel.barh(
                at, [costs[way] for way in ways], height, color=_COLOURS[model], label=model
            )
            panel.bar_label(bars, fmt="%.3g", padding=2, fontsize=6)
        panel.set_title(", ".join(place))
        panel.set_xscale("log")
        panel.set_xlim(0.8, 3 * panel.get_xlim()[1])
        panel.set_xlabel("time of a step / ordinary")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.grid(False)
    axes[0].set_yticks(range(len(_ORDER)), _ORDER)
    axes[0].invert_yaxis()
    legend_above(figure, axes)
    return figure


def _points(lines: Sequence[Line], model: str, way: str, key: str) -> list[tuple[float, float]]:
    """(epsilon, accuracy in percent) at every noise level."""
    found = [
        (getattr(line, key), 100 * line.accuracy.mean)
        for line in lines
        if (line.model, line.way) == (model, way) and line.accuracy is not None
    ]
    return sorted(found)
