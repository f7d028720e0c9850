"""A table says the same numbers in Markdown, CSV and LaTeX, and is written whole."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from fedsim.errors import ConfigError
from fedsim.report import files
from fedsim.report.statistics import AtLeast, Estimate
from fedsim.report.table import LINE, Column, Table

COLUMNS = [
    Column("policy", "policy", label=True),
    Column("seeds", "seeds", "count"),
    Column("accuracy", "accuracy %", "percent"),
    Column("change", "change %", "change"),
    Column("rounds", "rounds to T", "reach"),
    Column("light", "light %", "share"),
]
ROWS = [
    {
        "policy": "uniform",
        "seeds": 3,
        "accuracy": Estimate(mean=0.7291234567, low=0.7211234567, high=0.7371234567, count=3),
        "rounds": 1240,
        "light": Estimate(mean=0.5, low=0.4, high=0.6, count=3),
    },
    {
        "policy": "R&D_100%",
        "seeds": 1,
        "accuracy": Estimate(mean=0.5, low=None, high=None, count=1),
        "change": Estimate(mean=-0.052, low=-0.08, high=0.024, count=3),
        "rounds": AtLeast(300),
    },
]
TABLE = Table(columns=COLUMNS, rows=ROWS, caption="A caption.", notes=["Note one.", "T < 5 %."])


def cells(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_shows_percent_with_intervals():
    _, _, first, second = cells(TABLE.markdown())
    assert first == ["uniform", "3", "72.9 ± 0.8", "–", "1,240", "50.0"]
    assert second == ["R&D_100%", "1", "50.0", "-5.2 [-8.0, +2.4]", ">300", "–"]


def test_markdown_columns_line_up():
    lines = [line for line in TABLE.markdown().splitlines() if line.startswith("|")]
    bars = [[i for i, c in enumerate(line) if c == "|"] for line in lines]
    assert all(row == bars[0] for row in bars)


def test_caption_stands_above_and_notes_below():
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "A caption."
    assert lines[-2:] == ["- Note one.", "- T < 5 %."]


def test_csv_keeps_every_digit_and_the_ends_of_intervals():
    first, second = csv.DictReader(io.StringIO(TABLE.csv()))
    assert float(first["accuracy"]) == 0.7291234567
    assert (float(first["accuracy_low"]), float(first["accuracy_high"])) == (
        0.7211234567,
        0.7371234567,
    )
    assert (first["change"], first["change_low"]) == ("", "")
    assert (first["rounds"], first["rounds_more_than"]) == ("1240", "")
    assert (second["rounds"], second["rounds_more_than"]) == ("", "300")


@given(st.integers(1, 30))
def test_wide_tables_go_on_in_panels_that_fit_and_lose_no_column(count):
    values = [Column(f"c{i}", f"column number {i}", "count") for i in range(count)]
    rows = [{"policy": "uniform"} | {f"c{i}": i for i in range(count)}]
    text = Table(columns=[Column("policy", "policy", label=True), *values], rows=rows).markdown()
    assert max(len(line) for line in text.splitlines()) <= LINE
    found = [cell for line in cells(text) for cell in line if cell.startswith("column number")]
    assert found == [column.title for column in values]
    panels = text.strip().split("\n\n")
    assert all(panel.startswith("| policy ") for panel in panels)


def test_latex_has_a_cell_for_every_column_and_balanced_groups():
    text = TABLE.latex()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(COLUMNS) - 1 for row in rows)
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert r"R\&D\_100\%" in text
    assert r"$-$5.2 [$-$8.0, +2.4]" in text
    assert r"$>$300" in text


def test_the_best_of_a_column_is_bold_in_text_and_bare_in_the_csv_file():
    columns = [Column("who", "who", label=True), Column("eps", "eps", "number", best="low")]
    rows = [{"who": "a", "eps": 2.0}, {"who": "b", "eps": 1.0}, {"who": "c"}]
    table = Table(columns=columns, rows=rows)
    assert [row[1] for row in cells(table.markdown())[2:]] == ["2.00", "**1.00**", "–"]
    assert table.latex().count(r"\textbf{1.00}") == table.latex().count(r"\textbf") == 1
    assert table.csv() == "who,eps\na,2.0\nb,1.0\nc,\n"
    lines = table.markdown().splitlines()
    assert len({len(line) for line in lines}) == 1


def test_a_lone_value_is_not_the_best_of_anything():
    columns = [Column("who", "who", label=True), Column("eps", "eps", "number", best="low")]
    assert "**" not in Table(columns=columns, rows=[{"who": "a", "eps": 2.0}]).markdown()


def test_a_table_without_rows_is_its_titles():
    # Of a run on data without test examples, no round is measured.
    table = Table(columns=COLUMNS, rows=[])
    assert len(table.markdown().splitlines()) == 2
    assert table.latex().count(r" \\") == 1


def test_save_writes_tables_and_each_figure_as_png_and_svg(tmp_path):
    def draw() -> Figure:
        figure = Figure()
        figure.subplots().plot([0, 1])
        return figure

    table = Table(columns=COLUMNS, rows=ROWS, drawings={"curves": draw})
    paths = table.save(tmp_path / "new", "t")
    names = [path.name for path in paths]
    assert names == ["t.md", "t.csv", "t.tex", "t-curves.png", "t-curves.svg"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    assert paths[3].read_bytes().startswith(b"\x89PNG")
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in table.save(tmp_path / "new", "t")] == before


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "t.md").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(ConfigError, match=r"t\.md cannot be written \(No space left on device\)"):
        TABLE.save(tmp_path, "t")
    assert [path.name for path in tmp_path.iterdir()] == ["t.md"]
    assert (tmp_path / "t.md").read_text() == "old"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        TABLE.save(tmp_path / "taken", "t")


def test_split_columns_head_their_rows_and_stay_in_the_csv_file():
    columns = [Column("corpus", "corpus"), Column("who", "policy", label=True)]
    rows = [{"corpus": "one", "who": "a"}, {"corpus": "one", "who": "b"}]
    rows.append({"corpus": "two", "who": "a"})
    table = Table(columns=columns, rows=rows, split=("corpus",))
    blocks = table.markdown().split("\n\n")
    assert [blocks[0], blocks[2]] == ["**one**", "**two**"]
    assert [block.count("\n") for block in (blocks[1], blocks[3].rstrip())] == [3, 2]
    assert "corpus" not in table.markdown()
    assert table.latex().count(r"\begin{tabular}{l}") == 2
    assert table.latex().index("one\\par") < table.latex().index("two\\par")
    assert table.csv() == "corpus,who\none,a\none,b\ntwo,a\n"
