"""What a finished comparison looks like on a terminal, in a spreadsheet and in a paper.

A `Table` holds numbers, not text. Markdown shows percentages with one decimal and intervals, CSV
keeps every digit (fractions, with the ends of each interval in columns of their own), LaTeX has
`booktabs` tables. Columns that do not fit on a line go on in a second panel under the first.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.report.cells import Bold, Column, Panel, cells_of, width_of
from fedsim.report.files import write_whole
from fedsim.report.latex import floats
from fedsim.report.statistics import AtLeast, Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = 130
"""Characters a panel may take."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of numbers with a caption, notes and figures.

    Attributes:
      columns: in order.
      rows: one dict a row, column key to value; None or absent where nothing was measured.
      caption: what was run.
      notes: what a reader must know, the outcome first.
      drawings: figure name to a function that draws it.
      split: keys of columns that head a part of the table each, instead of standing in every row
        of it. CSV keeps them as columns.

    Example:
      >>> from fedsim.report.statistics import estimate
      >>> table = Table(
      ...     columns=[Column("who", "policy", label=True), Column("acc", "accuracy", "percent")],
      ...     rows=[{"who": "uniform", "acc": estimate([0.70, 0.72])}],
      ...     caption="Two seeds.",
      ... )
      >>> print(table)
      Two seeds.
      <BLANKLINE>
      | policy  |    accuracy |
      | :------ | ----------: |
      | uniform | 71.0 ± 12.7 |
      <BLANKLINE>
      >>> print(table.csv())
      who,acc,acc_low,acc_high
      uniform,0.71,0.582...,0.837...
    """

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    caption: str = ""
    notes: Sequence[str] = ()
    drawings: Mapping[str, "Callable[[], Figure]"] = field(default_factory=dict, repr=False)
    split: Sequence[str] = ()

    def __str__(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        """Aligned pipe tables, the caption above and the notes below; ends in a newline."""
        parts = [self.caption] if self.caption else []
        for heading, panels in self.parts:
            parts += [f"**{heading}**"] if heading else []
            parts += ["\n".join(_aligned(panel)) for panel in panels]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        r"""`table*` environments; the document needs `\usepackage{booktabs,graphicx}`."""
        return floats(self.caption, self.parts, self.notes)

    def csv(self) -> str:
        """Numbers in full precision, fractions not percentages; empty where not measured."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([name for column in self.columns for name in _csv_names(column)])
        for row in self.rows:
            writer.writerow([cell for column in self.columns for cell in _csv_cells(column, row)])
        return out.getvalue()

    def figures(self) -> "dict[str, Figure]":
        """Every figure by name, drawn now."""
        return {name: draw() for name, draw in self.drawings.items()}

    def save(self, folder: str | Path, name: str) -> list[Path]:
        """Write NAME.md, NAME.csv, NAME.tex and each figure as NAME-FIGURE.png and .svg.

        Args:
          folder: made where it is missing; files of these names are replaced.
          name: stem of every file.

        Returns:
          The paths, tables first.

        Raises:
          ConfigError: the folder cannot be written; files are whole or absent.
        """
        contents = {
            f"{name}.md": self.markdown().encode(),
            f"{name}.csv": self.csv().encode(),
            f"{name}.tex": self.latex().encode(),
        }
        if self.drawings:
            from fedsim.report.style import image

            for title, figure in self.figures().items():
                for suffix in ("png", "svg"):
                    contents[f"{name}-{title}.{suffix}"] = image(figure, suffix)
        return [write_whole(Path(folder) / file, data) for file, data in contents.items()]

    @cached_property
    def parts(self) -> list[tuple[str, list[Panel]]]:
        """Panels of the rows that have the split columns in common, and what they have."""
        keys = [tuple(row.get(key) for key in self.split) for row in self.rows]
        return [
            (
                ", ".join(map(str, key)),
                self._panels([r for r, own in zip(self.rows, keys, strict=True) if own == key]),
            )
            for key in dict.fromkeys(keys or [()])
        ]

    def _panels(self, rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
        """Columns with their cells as text, split so that a panel fits on a line."""
        shown = [column for column in self.columns if column.key not in self.split]
        texts = [(c, cells_of(c, [row.get(c.key) for row in rows])) for c in shown]
        labels = [column for column in texts if column[0].label]
        start = sum(width_of(column) + 3 for column in labels) + 1
        panels, used = [list(labels)], start
        for column in texts:
            if column[0].label:
                continue
            if used + width_of(column) + 3 > LINE and len(panels[-1]) > len(labels):
                panels.append(list(labels))
                used = start
            panels[-1].append(column)
            used += width_of(column) + 3
        return panels


def _aligned(panel: Panel) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column.kind == "text" else cell.rjust(width)
            for cell, width, (column, _) in zip(cells, widths, panel, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    widths = [max(width_of(column), 3) for column in panel]
    rules = [
        ":" + "-" * (width - 1) if column.kind == "text" else "-" * (width - 1) + ":"
        for width, (column, _) in zip(widths, panel, strict=True)
    ]
    yield line([_piped(column.title) for column, _ in panel])
    yield line(rules)
    for cells in zip(*(texts for _, texts in panel), strict=True):
        yield line([_piped(cell) for cell in cells])


def _piped(text: str) -> str:
    """A pipe would end the cell, a newline the row."""
    safe = text.replace("|", "\\|").replace("\n", " ")
    return f"**{safe}**" if isinstance(text, Bold) else safe


def _csv_names(column: Column) -> list[str]:
    if column.kind in ("percent", "share", "change"):
        return [column.key, f"{column.key}_low", f"{column.key}_high"]
    if column.kind == "reach":
        return [column.key, f"{column.key}_more_than"]
    return [column.key]


def _csv_cells(column: Column, row: Mapping[str, Any]) -> list[Any]:
    value = row.get(column.key)
    if isinstance(value, Estimate):
        return [value.mean, value.low, value.high]
    if isinstance(value, AtLeast):
        return [None, value.value]
    return [value] + [None] * (len(_csv_names(column)) - 1)
