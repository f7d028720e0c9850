"""Who took part, what failed and how long it took: the charts of a run's rounds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.report.charts import Chart, Series
from fedsim.report.curves import CENTRAL, Group
from fedsim.report.learning_charts import looks, means, over_rounds

if TYPE_CHECKING:
    from fedsim.record import Run

BLOCKS = 24
"""Columns of the chart of participation by activity and round; a column takes several rounds."""

DECILES = 10


def round_charts(groups: Sequence[Group]) -> list[Chart]:
    """Cohort size, failures, seconds, and participation by activity and round."""
    groups = [group for group in groups if group.selection != CENTRAL]
    if not groups:
        return []
    found = [_cohort(groups), _failures(groups), _seconds(groups), _participation(groups)]
    return [chart for chart in found if chart is not None and chart.series]


def shares(run: "Run", blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """How often devices of each decile of activity were drawn.

    Args:
      run: of devices.
      blocks: that its rounds are cut into.

    Returns:
      The first round of each block (blocks,), and the mean participations of a device in a round,
      in [0, 1], (10, blocks); NaN in a decile without devices.
    """
    offsets, drawn = run.cohorts["drawn_offsets"], run.cohorts["drawn"]
    decile = np.asarray(run.devices["decile"]).astype(int)
    rounds = len(offsets) - 1
    starts = np.unique(np.arange(blocks) * rounds // blocks)
    block = np.searchsorted(starts, np.repeat(np.arange(rounds), np.diff(offsets)), "right") - 1
    counts = np.zeros((DECILES + 1, len(starts)))
    np.add.at(counts, (decile[drawn], block), 1)
    devices = np.bincount(decile, minlength=DECILES + 1)[1:]
    chances = devices[:, None] * np.diff(np.append(starts, rounds))[None]
    found = np.divide(
        counts[1:], chances, out=np.full((DECILES, len(starts)), np.nan), where=chances > 0
    )
    return starts + 1, found


def _cohort(groups: Sequence[Group]) -> Chart:
    if len(groups) > 1:
        series = means(groups, "cohort_size")
    else:
        drawn = over_rounds(groups[0], "cohort_size", "drawn")
        series = [] if drawn is None else [drawn]
        (group,) = groups
        if drawn is not None and len(group.runs) == 1 and _failed(group):
            arrived = np.diff(group.runs[0].cohorts["arrived_offsets"])
            series.append(Series(label="arrived", x=drawn.x, y=arrived.astype(float)))
    return Chart(
        name="cohort",
        title="Cohort size",
        text="Devices drawn for a round, and, where some failed, those whose reply arrived.",
        x="round",
        y="devices",
        series=series,
    )


def _failures(groups: Sequence[Group]) -> Chart | None:
    if not any(map(_failed, groups)):
        return None
    return Chart(
        name="failures",
        title="Failures",
        text="Devices of a round that were drawn and whose reply did not count, simulated faults "
        "included.",
        x="round",
        y="devices",
        series=means(groups, "failures"),
    )


def _failed(group: Group) -> bool:
    return any(line.get("failures") for run in group.runs for line in run.rounds)


def _seconds(groups: Sequence[Group]) -> Chart:
    return Chart(
        name="seconds",
        title="Seconds a round",
        text="By the clock of the machine that ran it, measurements included.",
        x="round",
        y="seconds",
        series=means(groups, "seconds"),
    )


def _participation(groups: Sequence[Group]) -> Chart | None:
    groups = [group for group in groups if "drawn" in group.runs[0].cohorts]
    if not groups:
        return None
    text = "Mean participations of a device in a round, by its tenth of activity: 1 the least, 10 "
    if len(groups) > 1:
        series = [
            Series(label=group.label, x=np.arange(DECILES) + 1.0, y=found[:, 0], look=look)
            for group, look in zip(groups, looks(groups), strict=True)
            for found in [np.mean([shares(run, 1)[1] for run in group.runs], axis=0)]
        ]
        return Chart(
            name="participation",
            title="Participation by activity",
            text=f"{text}the most active.",
            x="decile of activity",
            y="participations a round",
            series=series,
        )
    starts, found = shares(groups[0].runs[0], BLOCKS)
    return Chart(
        name="participation",
        title="Participation by activity and round",
        text=f"{text}the most active. A column stands for several rounds where there are many.",
        x="round",
        y="decile of activity",
        kind="cells",
        series=[
            Series(label=f"decile {k + 1}", x=starts.astype(float), y=row)
            for k, row in enumerate(found)
        ],
    )
