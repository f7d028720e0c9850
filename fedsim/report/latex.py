"""How do tables and their text read in LaTeX, on pages of any width and height?

Every character comes out in ASCII, signs and Greek letters in math mode, rules are those of
`booktabs`. What is wider than the text is made smaller (`graphicx`); what is longer than a page
goes on in a float of its own under the same number.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from math import ceil

from fedsim.report.cells import Bold, Panel

PAGE = 50
"""Lines that a float may take: a page of `article` holds 57 of them."""

NOTE = 90
"""Characters of a note on a line of `article`, the narrowest usual text."""

_MATH = {
    "<": "<", ">": ">", "±": r"\pm", "×": r"\times", "÷": r"\div", "·": r"\cdot", "−": "-",
    "≤": r"\leq", "≥": r"\geq", "≠": r"\neq", "≈": r"\approx", "∞": r"\infty", "√": r"\surd",
    "∈": r"\in", "∑": r"\sum", "∆": r"\Delta", "°": r"^\circ", "¹": "^1", "²": "^2", "³": "^3",
    "←": r"\leftarrow", "→": r"\rightarrow", "↑": r"\uparrow", "↓": r"\downarrow",
    "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "µ": r"\mu", "ϵ": r"\epsilon",
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon",
    "ζ": r"\zeta", "η": r"\eta", "θ": r"\theta", "ι": r"\iota", "κ": r"\kappa", "λ": r"\lambda",
    "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma",
    "τ": r"\tau", "υ": r"\upsilon", "φ": r"\varphi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega",
    "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda", "Ξ": r"\Xi", "Π": r"\Pi",
    "Σ": r"\Sigma", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega",
}  # fmt: skip

_TEXT = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "|": r"\textbar{}", '"': "''", "“": "``", "”": "''", "‘": "`", "’": "'", "–": "--",
    "—": "---", "‑": "-", "…": r"\dots{}", "•": r"\textbullet{}", "§": r"\S{}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}",
    "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip

_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
"""Combining marks and the commands that every font of LaTeX's has for them."""


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it, signed numbers with a true minus.

    A character that plain LaTeX has no command for is named by its code point.

    Example:
      >>> escaped("5 % of A_b")
      '5 \\% of A\\_b'
      >>> escaped("-5.2 ± 0.3, --dp: é, ε")
      "$-$5.2 $\\pm$ 0.3, -{}-dp: \\'{e}, $\\varepsilon$"
      >>> escaped("家")
      '[U+5BB6]'
    """
    characters = []
    for position, character in enumerate(text):
        before, after = text[position - 1 : position], text[position + 1 : position + 2]
        if character == "-" and after.isdigit() and not before.isalnum():
            characters.append("$-$")
        elif character == before and character in "-'`":
            # Two of them are another character in LaTeX.
            characters.append("{}" + character)
        else:
            characters.append(_escaped(character))
    return "".join(characters)


def floats(caption: str, parts: Sequence[tuple[str, Sequence[Panel]]], notes: Sequence[str]) -> str:
    r"""`table*` environments with a table and its notes, no longer than a page each.

    The document needs `\usepackage{booktabs,graphicx}`.

    Args:
      caption: of all; "" for none.
      parts: a heading, or "", and the panels under it.
      notes: paragraphs below.
    """
    pages: list[list[str]] = [[]]
    used = 1 + ceil(len(caption) / NOTE)
    for height, lines in [*_blocks(parts), *_paragraphs(notes)]:
        if pages[-1] and used + height > PAGE:
            pages.append([])
            used = 2
        pages[-1] += [*(["", r"\medskip"] if pages[-1] else []), *lines]
        used += height
    lines = [r"% needs \usepackage{booktabs,graphicx}"]
    for number, page in enumerate(pages):
        lines += [r"\begin{table*}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
        if caption and number:
            lines.append(r"\addtocounter{table}{-1}\caption{(continued)}")
        elif caption:
            lines.append(rf"\caption{{{escaped(caption)}}}")
        lines += [*page, r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _blocks(parts: Sequence[tuple[str, Sequence[Panel]]]) -> Iterator[tuple[int, list[str]]]:
    """Height in lines and source of every panel, those longer than a page in equal pieces."""
    for heading, panels in parts:
        for number, panel in enumerate(panels):
            titled = bool(heading) and not number
            rows = len(panel[0][1])
            pieces = max(1, ceil(rows / (PAGE - 8)))
            step = max(1, ceil(rows / pieces))
            for start in range(0, max(1, rows), step):
                piece = [(column, cells[start : start + step]) for column, cells in panel]
                above = [rf"{escaped(heading)}\par"] if titled and not start else []
                # A line each for the titles, the rules and the space above.
                height = len(piece[0][1]) + 3 + len(above)
                yield height, [*above, *_tabular(piece)]


def _paragraphs(notes: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    for note in notes:
        # Half a line above it, rounded up.
        yield 1 + ceil(len(note) / NOTE), [rf"{{\raggedright {escaped(note)}\par}}"]


def _tabular(panel: Panel) -> Iterator[str]:
    """The lines of a `tabular` environment, made smaller where it is wider than the text."""
    align = "".join("l" if column.kind == "text" else "r" for column, _ in panel)
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{{align}}}"
    yield r"\toprule"
    yield " & ".join(escaped(column.title) for column, _ in panel) + r" \\"
    yield r"\midrule"
    for cells in zip(*(texts for _, texts in panel), strict=True):
        # An empty group first: a cell that opens with a bracket would be read as the argument of
        # the row end before it.
        yield "{}" + " & ".join(map(_emphasised, cells)) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _emphasised(cell: str) -> str:
    return rf"\textbf{{{escaped(cell)}}}" if isinstance(cell, Bold) else escaped(cell)


def _escaped(character: str) -> str:
    """One character, whatever stands around it."""
    if character in _MATH:
        return f"${_MATH[character]}$"
    if character in _TEXT:
        return _TEXT[character]
    if character.isspace():
        return " "
    if character.isascii() and character.isprintable():
        return character
    letter, *marks = list(unicodedata.normalize("NFD", character))
    if len(marks) == 1 and letter.isascii() and marks[0] in _ACCENTS:
        return rf"\{_ACCENTS[marks[0]]}{{{letter}}}"
    return f"[U+{ord(character):04X}]"
