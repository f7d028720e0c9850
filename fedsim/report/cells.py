"""What does a value look like in a cell of a table?

Percentages have one decimal and their interval, other numbers three digits; what was not measured
is a dash.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedsim.report.statistics import AtLeast, Estimate

Kind = Literal["text", "count", "number", "reach", "percent", "share", "change"]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
      key: name in `rows` and in the CSV file.
      title: heading in Markdown and LaTeX.
      kind: "text"; "count", an integer; "number", shown with three digits; "reach", a count or
        `AtLeast`; the others are an `Estimate` of a fraction: "percent" is shown with half-width,
        "share" without, "change" signed with both ends.
      label: says which row it is; repeated in every panel.
      best: whether the "high"est or the "low"est mean of the rows is set in bold; "" for neither.
    """

    key: str
    title: str
    kind: Kind = "text"
    label: bool = False
    best: Literal["", "high", "low"] = ""


class Bold(str):
    """A cell that is the best of its column."""


Panel = list[tuple[Column, list[str]]]
"""Columns with their cells as text."""


def cells_of(column: Column, values: Sequence[Any]) -> list[str]:
    """What stands in a column, the best of it in bold where it has one."""
    texts = [_shown(column, value) for value in values]
    means = [value.mean if isinstance(value, Estimate) else value for value in values]
    measured = [mean for mean in means if mean is not None]
    if not column.best or len(measured) < 2:
        return texts
    best = max(measured) if column.best == "high" else min(measured)
    return [Bold(t) if mean == best else t for t, mean in zip(texts, means, strict=True)]


def width_of(column: tuple[Column, list[str]]) -> int:
    """Characters that a column takes in a Markdown table."""
    bold = len("****")
    cells = (len(text) + bold * isinstance(text, Bold) for text in column[1])
    return max([len(column[0].title), *cells])


def _shown(column: Column, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        mean = 100 * value.mean
        if value.low is None or value.high is None or column.kind == "share":
            return f"{mean:+.1f}" if column.kind == "change" else f"{mean:.1f}"
        if column.kind == "change":
            return f"{mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"
        return f"{mean:.1f} ± {50 * (value.high - value.low):.1f}"
    if column.kind == "number":
        return _three_digits(value)
    if column.kind in ("count", "reach") and not isinstance(value, AtLeast):
        return f"{value:,.0f}"
    return str(value)


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent, all digits before the point.

    Example:
      >>> [_three_digits(x) for x in (0.03125, 4.2, 1234.5, float("inf"))]
      ['0.0312', '4.20', '1,234', 'inf']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"
