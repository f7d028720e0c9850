"""What does a figure show, as numbers: named series on two axes.

A `Chart` is data. `fedsim.report.chart_drawing` makes a figure of it, `csv()` a table of the same
numbers, so that the two cannot drift apart.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["line", "points", "steps", "cells"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One line, set of points, histogram or row of cells.

    Attributes:
      label: what it is; shown in the legend.
      x: (points,) in the unit of the chart's axis.
      y: (points,) likewise; NaN where nothing was measured.
      low: (points,) lower ends of intervals, or None without intervals.
      high: (points,) upper ends, or None.
      look: selection policy whose colours it has, or a number that it shares with what belongs
        to it in other charts; None takes its position.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    look: str | int | None = None


@dataclass(frozen=True, kw_only=True)
class Level:
    """A dashed horizontal line.

    Attributes:
      label: shown in the legend.
      y: in the unit of the chart's axis.
      look: as of `Series`; None is grey.
    """

    label: str
    y: float
    look: str | int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Chart:
    """One figure as numbers.

    Attributes:
      name: stem of its files: lower-case letters, digits and hyphens.
      title: what it shows.
      text: how to read it, in a sentence or two.
      x: name of the axis, with its unit.
      y: likewise; of "cells" it is what the rows are.
      series: in order.
      kind: "line"; "points"; "steps", the y of each x holds up to the next x; "cells", a row of
        coloured cells a series, all with the same x.
      log: the axes that are logarithmic, "", "x", "y" or "xy".
      levels: dashed horizontal lines to compare with.
      diagonal: whether y = x is drawn, to compare with.
      zero: whether the y axis begins at 0.
      most: the largest value there can be on the y axis, or None.

    Example:
      >>> chart = Chart(
      ...     name="loss", title="Loss", text="", x="round", y="loss",
      ...     series=[Series(label="a", x=np.array([1, 2]), y=np.array([0.5, np.nan]))],
      ... )
      >>> print(chart.csv())
      series,round,loss,low,high
      a,1,0.5,,
      a,2,,,
    """

    name: str
    title: str
    text: str
    x: str
    y: str
    series: Sequence[Series]
    kind: Kind = "line"
    log: Literal["", "x", "y", "xy"] = ""
    levels: Sequence[Level] = ()
    diagonal: bool = False
    zero: bool = True
    most: float | None = None

    def csv(self) -> str:
        """The numbers of every series in full precision; empty where nothing was measured."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["series", self.x, self.y, "low", "high"])
        for one in self.series:
            nothing = np.full(len(one.x), np.nan)
            low, high = (nothing if end is None else end for end in (one.low, one.high))
            for values in zip(one.x, one.y, low, high, strict=True):
                cells = ["" if np.isnan(v) else f"{float(v):.17g}" for v in values]
                writer.writerow([one.label, *cells])
        for level in self.levels:
            writer.writerow([level.label, "", f"{level.y:.17g}", "", ""])
        return out.getvalue()
