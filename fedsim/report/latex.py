"""How do a table and its text read in LaTeX?

Special characters are escaped, signs are in math mode, and rules are those of `booktabs`.
"""

from collections.abc import Iterator

from fedsim.report.cells import Bold, Panel

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "\n": " ",
}


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it, signed numbers with a true minus.

    Example:
      >>> escaped("5 % of A_b")
      '5 \\% of A\\_b'
      >>> escaped("-5.2 ± 0.3")
      '$-$5.2 $\\pm$ 0.3'
    """
    characters = []
    for position, character in enumerate(text):
        before, after = text[position - 1 : position], text[position + 1 : position + 2]
        if character == "-" and after.isdigit() and not before.isalnum():
            character = "$-$"
        characters.append(_SPECIAL.get(character, character))
    return "".join(characters)


def tabular(panel: Panel) -> Iterator[str]:
    """The lines of a `tabular` environment."""
    align = "".join("l" if column.kind == "text" else "r" for column, _ in panel)
    yield rf"\begin{{tabular}}{{{align}}}"
    yield r"\toprule"
    yield " & ".join(escaped(column.title) for column, _ in panel) + r" \\"
    yield r"\midrule"
    for cells in zip(*(texts for _, texts in panel), strict=True):
        # An empty group first: a cell that opens with a bracket would be read as the argument of
        # the row end before it.
        yield "{}" + " & ".join(map(_emphasised, cells)) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _emphasised(cell: str) -> str:
    return rf"\textbf{{{escaped(cell)}}}" if isinstance(cell, Bold) else escaped(cell)
