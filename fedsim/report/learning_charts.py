"""What did the model learn, and for whom: the charts of accuracy that runs measured.

One group of runs shows several figures of its own; several groups are compared by one figure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fedsim.report.charts import Chart, Level, Series
from fedsim.report.curves import ACCURACY, CENTRAL, Axis, Group, band, curve
from fedsim.report.notes import FEWEST, utterances

_QUALITY = (
    (ACCURACY, "intent accuracy"),
    ("slot_f1", "slot F1"),
    ("exact_match", "exact match"),
    ("unseen/intent_accuracy", "intent accuracy, unseen people"),
)


def learning_charts(groups: Sequence[Group]) -> list[Chart]:
    """Learning curves, accuracy by decile of activity and by period, training loss."""
    found = [*_curves(groups), _deciles(groups), _periods(groups), _loss(groups)]
    return [chart for chart in found if chart is not None and chart.series]


def looks(groups: Sequence[Group]) -> list[str] | list[int] | list[None]:
    """What each group is drawn like in every chart: its policy, or by its place if they share one.

    A single group has no look of its own, so that its series take theirs by position.
    """
    names = [group.selection for group in groups]
    if len(names) == 1:
        return [None]
    return names if len(set(names)) == len(names) else list(range(len(names)))


def over_rounds(
    group: Group, key: str, label: str, *, scale: float = 1.0, axis: Axis = "rounds"
) -> Series | None:
    """A figure of every measured round, with its interval over seeds; None if never measured.

    Args:
      group: the runs.
      key: of the figure.
      label: of the series.
      scale: that values are multiplied by, 100 for percentages.
      axis: what stands on the x axis.
    """
    points, estimates = band(group, key, axis)
    if not len(points):
        return None
    ends = [(e.low, e.high) for e in estimates]
    known = all(low is not None and high is not None for low, high in ends)
    low, high = (scale * np.array([end[k] for end in ends], float) for k in (0, 1))
    return Series(
        label=label,
        x=points,
        y=scale * np.array([e.mean for e in estimates]),
        low=low if known else None,
        high=high if known else None,
    )


def compared(
    groups: Sequence[Group], key: str, *, scale: float = 1.0, axis: Axis = "rounds"
) -> list[Series]:
    """The same figure of every group, each under its name and with its look.

    Groups that were trained centrally have epochs, not rounds, and are left out over rounds.
    """
    found = []
    for group, look in zip(groups, looks(groups), strict=True):
        one = over_rounds(group, key, group.label, scale=scale, axis=axis)
        if one is not None and (axis == "examples" or group.selection != CENTRAL):
            found.append(replace(one, look=look))
    return found


def means(groups: Sequence[Group], key: str) -> list[Series]:
    """The same without intervals, for what a reader looks at as it is."""
    return [replace(one, low=None, high=None) for one in compared(groups, key)]


def _curves(groups: Sequence[Group]) -> Iterator[Chart]:
    if len(groups) == 1:
        found = [over_rounds(groups[0], key, label, scale=100) for key, label in _QUALITY]
        yield Chart(
            name="learning",
            title="Learning curves",
            text=f"On test utterances.{_spread(groups)}",
            x="round",
            y="%",
            most=100,
            series=[one for one in found if one is not None],
        )
        return
    for key, label in _QUALITY[:2]:
        yield Chart(
            name=f"learning-{key.replace('_', '-')}",
            title=f"{label[0].upper()}{label[1:]} over rounds",
            text=f"On test utterances.{_spread(groups)}",
            x="round",
            y=f"{label} (%)",
            most=100,
            series=compared(groups, key, scale=100),
            levels=_central(groups, key),
        )
    yield Chart(
        name="learning-over-examples",
        title="Intent accuracy over examples processed",
        text="Policies that draw heavy devices process more examples in the same rounds; here "
        f"they are compared after the same number.{_spread(groups)}",
        x="examples processed",
        y="intent accuracy (%)",
        most=100,
        series=compared(groups, ACCURACY, scale=100, axis="examples"),
    )


def _spread(groups: Sequence[Group]) -> str:
    if all(len(group.runs) == 1 for group in groups):
        return ""
    return " Means over seeds with 95 % intervals (Student t)."


def _central(groups: Sequence[Group], key: str) -> list[Level]:
    """Where models ended that were trained on all data at once."""
    finals = [(g.label, g.final(key)) for g in groups if g.selection == CENTRAL]
    return [Level(label=label, y=100 * final.mean) for label, final in finals if final is not None]


def _deciles(groups: Sequence[Group]) -> Chart | None:
    enough = [k for k in range(1, 11) if (utterances(groups, k) or 0) >= FEWEST]
    if not enough:
        return None
    return Chart(
        name="deciles",
        title="Accuracy by activity",
        text="Final intent accuracy on test utterances of each tenth of the people, from the least "
        f"(1) to the most active (10); tenths with fewer than {FEWEST} test utterances are left "
        f"out.{_spread(groups)}",
        x="decile of activity",
        y="intent accuracy (%)",
        most=100,
        kind="points",
        series=list(_finals(groups, "deciles/intent_accuracy_", enough)),
    )


def _periods(groups: Sequence[Group]) -> Chart | None:
    continual = [group for group in groups if group.setting == "continual"]
    if not continual:
        return None
    count = max(line["period"] for group in continual for line in group.runs[0].rounds)
    return Chart(
        name="periods",
        title="Accuracy by period, at the end",
        text="Final intent accuracy on the test utterances of each period: what is left of earlier "
        "ones once their data may be gone.",
        x="period of the test utterances",
        y="intent accuracy (%)",
        most=100,
        kind="points",
        series=list(_finals(continual, "periods/intent_accuracy_", range(1, count + 1))),
    )


def _finals(groups: Sequence[Group], stem: str, numbers: Sequence[int]) -> Iterator[Series]:
    """Final figures STEM1, STEM2, ... of every group."""
    for group, look in zip(groups, looks(groups), strict=True):
        found = {k: e for k in numbers if (e := group.final(f"{stem}{k}")) is not None}
        if not found:
            continue
        known = all(e.low is not None for e in found.values())
        low, high = (
            100 * np.array([getattr(e, end) for e in found.values()], float) if known else None
            for end in ("low", "high")
        )
        yield Series(
            label=group.label,
            x=np.array(list(found), float),
            y=100 * np.array([e.mean for e in found.values()]),
            low=low,
            high=high,
            look=look,
        )


def _loss(groups: Sequence[Group]) -> Chart | None:
    if not any(len(curve(group.runs[0], "train_loss", "rounds")[0]) for group in groups):
        return None
    return Chart(
        name="training-loss",
        title="Training loss",
        text="Mean loss of a round's devices while they trained, weighted by examples.",
        x="round",
        y="training loss",
        series=means(groups, "train_loss"),
    )
