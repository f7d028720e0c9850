"""Tables compile with plain LaTeX, whatever names stand in them, and fit on its pages."""

import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.report.latex import PAGE, escaped
from fedsim.report.table import Column, Table

COMMITTED = sorted((Path(__file__).parents[2] / "experiments" / "results").glob("*/*.tex"))

AWKWARD = [
    "a_b", "50 %", "#1 & 2", "~x^2\\y", "{braces", "braces}", "[brackets]", "a|b", "<b>", "$HOME",
    "--dp none", "``w'' --- \"q\"", "-5.2 ± 0.3", "−2", "en–dash—em", "→ ε ∞ δ ≤ 1e-5", "“x” ‘y’",
    "café Zürich Łódź ąđ", "日本", "tab\tnew\nline", "\u00a0\u200b\x07", "a\u0301",
    "\\input{x}",
]  # fmt: skip


def wide(rows: list[str], columns: int, notes: tuple[str, ...] = ()) -> Table:
    """A row a name, with a number in every column."""
    counts = [Column(f"c{i}", f"figure no. {i} %", "count") for i in range(columns)]
    return Table(
        columns=[Column("run", "run", label=True), *counts],
        rows=[{"run": name} | {f"c{i}": 1000 * i for i in range(columns)} for name in rows],
        caption="Names: " + ", ".join(rows[:30]),
        notes=notes,
    )


class TestCompiled:
    @pytest.fixture(params=["", "twocolumn"], ids=["one-column", "two-columns"])
    def said(self, request, tmp_path):
        """What pdflatex says of a text in a document of a class."""
        if shutil.which("pdflatex") is None:
            pytest.skip("no pdflatex here (apt-get install texlive-latex-recommended)")

        def compiled(text: str) -> str:
            (tmp_path / "t.tex").write_text(
                rf"\documentclass[{request.param}]{{article}}\usepackage{{booktabs,graphicx}}"
                rf"\begin{{document}}{text}\end{{document}}"
            )
            words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=120)
            log = (tmp_path / "t.log").read_text("latin-1")
            assert done.returncode == 0, log[-2000:]
            return log

        return compiled

    def test_awkward_names_and_eighteen_columns_fit_on_the_page(self, said):
        log = said(wide(AWKWARD, 17, tuple(AWKWARD)).latex())
        assert "Overfull" not in log
        assert "Float too large" not in log
        assert "Missing character" not in log

    def test_long_tables_and_notes_go_on_on_the_next_page(self, said):
        table = wide([f"run {i}" for i in range(200)], 9, ("A note of some words. " * 40,) * 12)
        log = said(table.latex())
        assert "Overfull" not in log
        assert "Float too large" not in log

    @pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
    def test_committed_tables_fit_on_the_page(self, said, file):
        log = said(file.read_text("utf-8"))
        assert "Overfull" not in log
        assert "Float too large" not in log

    def test_what_does_not_fit_would_be_found(self, said):
        """The measure itself works."""
        tall = r"\begin{table*}\rule{1pt}{2000pt}\end{table*}"
        log = said(r"\noindent\rule{1000pt}{1pt}" + tall)
        assert "Overfull" in log
        assert "Float too large" in log

    def test_every_character_compiles(self, said):
        text = " ".join(escaped(f"x{chr(i)}x") for i in range(32, 0x2600) if chr(i).isprintable())
        assert "Missing character" not in said(text)


@given(st.text(st.sampled_from([chr(i) for i in range(0x3000)])))
def test_any_text_is_ascii_without_a_bare_special_character(text):
    found = escaped(text)
    assert found.isascii() and found.isprintable()
    # What is left once our own commands are taken out must be plain.
    plain = re.sub(r"\\(text\w+|dots|S|ss|ae|AE|oe|OE|o|O|l|L|i)\{\}", "", found)
    plain = re.sub(r"\$[^$]*(?<!\\)\$", "", plain.replace(r"\$", ""))
    plain = re.sub(r"\\[`'^~=u.\"rHvc]\{[A-Za-z]\}", "", plain)
    plain = re.sub(r"\\[&%#_{}]", "", plain).replace("{}", "")
    assert not set(plain) & set('\\&%$#_{}~^<>|"')


@given(st.text(alphabet="-'`a5"))
def test_no_two_characters_join_to_another(text):
    assert not re.search(r"--|''|``", escaped(text))


def test_accents_are_commands_that_need_no_input_encoding():
    letters = "áàâãäåçčñőżŻÉ"
    assert [re.sub(r"[\\{}]", "", escaped(x))[-1] for x in letters] == [
        unicodedata.normalize("NFD", x)[0] for x in letters
    ]


def test_pieces_of_a_long_table_keep_every_row_once_and_repeat_titles():
    names = [f"run-{i}" for i in range(3 * PAGE)]
    text = wide(names, 2).latex()
    assert re.findall(r"^\{\}(run-\d+) &", text, re.MULTILINE) == names
    floats = text.split(r"\begin{table*}")[1:]
    assert len(floats) > 3
    assert all(r"figure no. 0 \% & figure no. 1 \%" in one for one in floats)
    assert ["(continued)" in one for one in floats] == [False] + [True] * (len(floats) - 1)
    assert all(one.count(r" \\") <= PAGE for one in floats)
