"""A page says what was run, assumed, claimed and measured; a browser shows it whole."""

import re
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import browser, installed

from fedsim import ConfigError
from fedsim.privacy.claim import EVERY_CLAIM
from fedsim.report.grouping import grouped
from fedsim.report.report import report_page, write_report

PAST_THE_EDGE = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll, pre'))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))
"""
"""Whatever sticks out on the right; tables and listings scroll in a box of their own."""

UNREADABLE = """
[...document.querySelectorAll('figure svg text')]
  .filter(e => e.textContent.trim() && e.getBoundingClientRect().height < 9)
  .map(e => e.textContent)
"""


class Parsed(HTMLParser):
    """Identifiers, references and open elements of a page."""

    VOID = frozenset({"meta", "link", "br", "img", "use", "path", "rect"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.open, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        keys = ("href", "src", "xlink:href")
        self.references += [found[key] for key in keys if key in found]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def pages(private_run, plain_run, tmp_path_factory):
    """A page of a private run, of one without privacy, and of a comparison with two seeds."""
    folder = tmp_path_factory.mktemp("pages")

    def changed(selection, seed):
        config = deepcopy(private_run.config) | {"selection_label": selection, "seed": seed}
        lines = [*private_run.rounds[:-1], private_run.rounds[-1] | {"intent_accuracy": seed / 3}]
        return replace(private_run, config=config, rounds=lines)

    compared = [changed(name, seed) for name in ("activity", "sqrt") for seed in (1, 2)]
    runs = {
        "private": [private_run],
        "plain": [plain_run],
        "compared": [*compared, plain_run],
    }
    for name, own in runs.items():
        write_report(own, folder / f"{name}.html")
    return folder


def parsed(pages, name):
    return Parsed((pages / f"{name}.html").read_text("utf-8"))


@pytest.mark.parametrize("name", ["private", "plain", "compared"])
def test_a_page_is_well_formed_loads_nothing_and_names_its_files(pages, name):
    page = parsed(pages, name)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    for reference in page.references:
        if reference.startswith("#"):
            assert reference[1:] in page.ids
        elif reference != "data:,":
            assert (pages / reference).stat().st_size > 0, reference
    text = (pages / f"{name}.html").read_text("utf-8")
    assert not re.search(r"<script|@import|url\((?!#)", text)


def test_a_private_page_says_what_is_claimed_and_what_no_claim_covers(pages, private_run):
    said = " ".join(parsed(pages, "private").text)
    for sentence in EVERY_CLAIM:
        assert sentence[1:].rstrip(".") in said
    for sentence in private_run.start["assumptions"]:
        assert sentence[1:].rstrip(".") in said
    assert f"{private_run.rounds[-1]['epsilon_max']:.3g}" in said
    assert "Selective(PrivateAggregation(FedAvg))" in said
    assert "ROC of membership inference" in said


def test_a_page_about_a_mechanism_without_a_claim_says_infinite(private_run):
    lines = [line | {"epsilon_max": float("inf")} for line in private_run.rounds]
    lines = [line | {"epsilon_participation_max": float("inf")} for line in lines]
    page = report_page(grouped([replace(private_run, rounds=lines)]), "files")
    (claims,) = [one.table for one in page.sections if one.title == "What is claimed"]
    assert [column.key for column in claims.columns] == ["observer", "device"]
    assert [row["device"] for row in claims.rows] == [float("inf")] * 3


def test_a_page_without_privacy_and_leakage_is_shorter_and_says_so(pages):
    said = " ".join(parsed(pages, "plain").text)
    assert "every epsilon is infinite before every observer" in said
    for title in ("What the claim does not cover", "Privacy and leakage", "ROC", "Histogram"):
        assert title not in said
    assert "trainings on devices failed" in said


def test_a_comparison_counts_its_runs_and_tests_them(pages):
    said = " ".join(parsed(pages, "compared").text)
    assert "5 runs of 3 kinds" in said
    assert "paired by seed; negative is better" in said
    # What the panels have in common is said once, and nothing of the run that has none.
    assert said.count("holds with 95 % confidence for all audited rounds") == 1
    assert "Leakage beside epsilon, device level" in said


def test_what_some_panels_have_in_common_is_said_once_with_their_names(private_run, monkeypatch):
    notes = {"activity": ["all.", "two."], "uniform": ["all.", "two."], "top": ["all.", "one."]}
    runs = [
        replace(private_run, config=deepcopy(private_run.config) | {"selection_label": name})
        for name in notes
    ]
    monkeypatch.setattr(
        "fedsim.report.report.leakage_notes", lambda run: notes[run.config["selection_label"]]
    )
    sections = report_page(grouped(runs), "files").sections
    (said,) = [section.sentences for section in sections if section.title == "Privacy and leakage"]
    assert said == ["all.", "activity; uniform: two.", "top: one."]


def test_a_refuted_claim_is_the_first_thing_on_the_page(private_run, tmp_path):
    broken = private_run.rounds[-1] | {
        "epsilon_audit_low": 99.0,
        "epsilon_claim_at_delta_audit": 1.0,
        "figures": {"leakage/bound_exceeds_claim": True},
    }
    run = replace(private_run, rounds=[*private_run.rounds[:-1], broken])
    write_report([run], tmp_path / "r.html")
    said = (tmp_path / "r.html").read_text("utf-8")
    assert said.index('class="alarm">CLAIM REFUTED') < said.index("<h2>")


def test_what_a_record_says_cannot_become_markup(private_run, tmp_path):
    evil = "<script>alert(1)</script>"
    config = deepcopy(private_run.config) | {"selection_label": evil}
    start = private_run.start | {"population": evil, "assumptions": [evil]}
    write_report([replace(private_run, config=config, start=start)], tmp_path / "r.html")
    assert "<script" not in (tmp_path / "r.html").read_text("utf-8")


def test_a_page_is_the_same_each_time(plain_run, pages, tmp_path):
    files = write_report([plain_run], tmp_path / "plain.html")
    for path in files:
        assert path.read_bytes() == (pages / path.relative_to(tmp_path)).read_bytes()


def test_a_place_that_cannot_be_written_is_refused(plain_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report([plain_run], tmp_path / "file" / "r.html")


class TestInABrowser:
    @pytest.fixture(scope="class")
    def chromium(self, tmp_path_factory):
        path = installed()
        if path is None:
            pytest.skip("no Chromium here (apt-get install chromium-headless-shell)")
        with browser(path, tmp_path_factory.mktemp("profile")) as one:
            yield one

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 390])
    @pytest.mark.parametrize("name", ["private", "plain", "compared"])
    def test_nothing_overflows_and_the_console_is_silent(self, pages, chromium, name, width, dark):
        chromium.open(pages / f"{name}.html", width, dark=dark)
        assert chromium.value("document.documentElement.scrollWidth") <= width
        assert chromium.value(PAST_THE_EDGE) == []
        assert chromium.value(UNREADABLE) == []
        assert chromium.complaints() == []
        assert chromium.requested() == []

    def test_what_overflows_and_complains_is_noticed(self, chromium, tmp_path):
        """The measure itself works."""
        (tmp_path / "bad.html").write_text(
            "<p style='width: 2000px'>wide</p><script>console.error('no')</script>"
        )
        chromium.open(tmp_path / "bad.html", 1280)
        assert chromium.value(PAST_THE_EDGE) == ["P wide"]
        assert chromium.complaints()

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_text_of_figures_stands_out_from_the_page(self, pages, chromium, dark):
        chromium.open(pages / "private.html", 1280, dark=dark)
        lightness = "(c => c.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765)"
        ink, paper = (
            chromium.value(f"{lightness}(getComputedStyle({element}).{style})")
            for element, style in (
                ("document.querySelector('figure svg text')", "fill"),
                ("document.body", "backgroundColor"),
            )
        )
        assert abs(ink - paper) > 0.6
        assert (paper < 0.5) == dark

    def test_it_prints(self, pages, chromium):
        chromium.open(pages / "compared.html", 1280, dark=True)
        assert chromium.paper().startswith(b"%PDF")
