"""What is in a page about runs, as one HTML file that loads nothing and runs no script.

Figures stand in it as SVG whose colours follow the page's, so that it reads in the light, in the
dark and on paper. Everything that comes from a record is escaped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fedsim.report.cells import Bold, Panel
from fedsim.report.charts import Chart
from fedsim.report.page_style import CSS
from fedsim.report.table import Table

_COLOUR = re.compile(r"#([0-9a-f]{6})\b")
_STYLE = re.compile(r'style="[^"]*"')
_NAMED = re.compile(r'(\bid="|xlink:href="#|url\(#)')


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page under a heading; what is empty is left out.

    Attributes:
      title: the heading.
      facts: name -> what it is, as a list of definitions.
      sentences: as a bulleted list.
      table: with its notes.
      charts: side by side where there is room.
      details: summary -> text that is shown as it is when somebody asks for it.
    """

    title: str
    facts: Mapping[str, str] | None = None
    sentences: Sequence[str] = ()
    table: Table | None = None
    charts: Sequence[Chart] = ()
    details: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page.

    Attributes:
      title: its heading.
      lead: what it is about, in a sentence.
      alarms: what must be read before anything else.
      sections: in order.
      files: folder, relative to the page, of the charts' PNG and CSV files.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    files: str
    alarms: Sequence[str] = ()


def html(page: Page, svgs: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
      page: what is in it.
      svgs: chart name -> its figure as an SVG document of matplotlib's.
    """
    sections = [section for section in page.sections if _filled(section)]
    anchors = [
        f'<a href="#{_anchor(section.title)}">{escape(section.title)}</a>' for section in sections
    ]
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # A browser would ask for an icon otherwise.
        '<link rel="icon" href="data:,">',
        f"<title>{escape(page.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>",
        f"<header>\n<h1>{escape(page.title)}</h1>\n<p>{escape(page.lead)}</p>\n</header>",
        *(f'<p class="alarm">{escape(text)}</p>' for text in page.alarms),
        f'<nav class="soft">{" · ".join(anchors)}</nav>\n<main>',
    ]
    for section in sections:
        lines += _section(section, page.files, svgs)
    lines.append(
        '</main>\n<footer class="soft">Made by fedsim from the records of the runs alone.</footer>'
        "\n</body>\n</html>"
    )
    return "\n".join(lines) + "\n"


def inline(svg: str, name: str, title: str) -> str:
    """A figure of matplotlib's as part of a page.

    Its size follows the page, its colours can be replaced by the style sheet, and its names are
    its own, since a page has several figures.

    Args:
      svg: the document.
      name: of the chart, unique on the page.
      title: what a screen reader says.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = _NAMED.sub(rf"\g<1>{name}-", body)
    body = _STYLE.sub(lambda style: _COLOUR.sub(r"var(--c\1, #\1)", style.group()), body)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(title)}">{rest.strip()}'


def table_html(table: Table) -> str:
    """A table with its caption and notes; where it is wider than the page, it scrolls alone."""
    parts = [f'<p class="soft">{escape(table.caption)}</p>'] if table.caption else []
    for heading, panels in table.parts:
        parts += [f"<p><b>{escape(heading)}</b></p>"] if heading else []
        parts += ["\n".join(_panel(panel)) for panel in panels]
    if table.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
        parts.append(f'<ul class="notes">{notes}</ul>')
    return "\n".join(parts)


def _filled(section: Section) -> bool:
    return any((section.facts, section.sentences, section.table, section.charts, section.details))


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _section(section: Section, files: str, svgs: Mapping[str, str]) -> Iterator[str]:
    yield f'<section id="{_anchor(section.title)}">\n<h2>{escape(section.title)}</h2>'
    if section.facts:
        facts = (f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in section.facts.items())
        yield f"<dl>{''.join(facts)}</dl>"
    if section.sentences:
        yield f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in section.sentences)}</ul>"
    if section.table is not None:
        yield table_html(section.table)
    if section.charts:
        yield '<div class="charts">'
        for chart in section.charts:
            yield _figure(chart, files, svgs[chart.name])
        yield "</div>"
    for summary, text in (section.details or {}).items():
        yield f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
    yield "</section>"


def _figure(chart: Chart, files: str, svg: str) -> str:
    where = escape(f"{files}/{chart.name}", quote=True)
    links = " · ".join(
        f'<a href="{where}.{kind}">{kind.upper()}</a>' for kind in ("png", "svg", "csv")
    )
    return (
        f'<figure id="figure-{chart.name}"><h3>{escape(chart.title)}</h3>\n'
        f"{inline(svg, chart.name, chart.title)}\n"
        f"<figcaption><p>{escape(chart.text)}</p><p>{links}</p></figcaption></figure>"
    )


def _panel(panel: Panel) -> Iterator[str]:
    kinds = ["text" if column.kind == "text" else "number" for column, _ in panel]
    head = "".join(
        f'<th class="{kind}" scope="col">{escape(column.title)}</th>'
        for kind, (column, _) in zip(kinds, panel, strict=True)
    )
    yield f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
    for cells in zip(*(texts for _, texts in panel), strict=True):
        row = "".join(
            f'<td class="{kind}">{_cell(cell)}</td>'
            for kind, cell in zip(kinds, cells, strict=True)
        )
        yield f"<tr>{row}</tr>"
    yield "</tbody></table></div>"


def _cell(cell: str) -> str:
    return f"<b>{escape(cell)}</b>" if isinstance(cell, Bold) else escape(cell)
