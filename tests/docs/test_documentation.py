"""Everything that the documentation tells its reader to type works, and prints what it says."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro
from documented import HOW_TO, ROOT, TUTORIAL, blocks, execute

from experiments import command_line
from experiments.arguments import check_arguments
from experiments.options import check_options
from experiments.run_options import RunOptions

DOCS = ROOT / "docs"
RESULTS = ROOT / "experiments" / "results" / "README.md"
PAGES = [TUTORIAL, *HOW_TO]
NAMES = ("simulation", "record", "private-runs", "leakage", "cohorts", "benchmarks")
TOPICS = [DOCS / f"{name}.md" for name in NAMES]
ROOMS = (
    "fedsim",
    "strategies",
    "clients",
    "fedsim.population",
    "fedsim.models",
    "fedsim.privacy",
    "fedsim.leakage",
)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands_of(page: Path) -> list[list[str]]:
    """Words of the `fedsim` commands of a page: in `sh` blocks, indented, or in code of a table."""
    text = page.read_text("utf-8")
    shown = re.findall(r"^    fedsim (.*?)(?:  +#.*)?$", text, re.MULTILINE)
    shown += re.findall(r"\| `fedsim (.*?)` \|", text)
    found = [shlex.split(line) for line in shown]
    return found + [words for block in blocks(page) for words in block.commands()]


def check_command(words: list[str]) -> None:
    """Parse a command as the command line does, and refuse the options that it would refuse."""
    kind, _ = command_line.COMMANDS[words[0]]
    check_arguments(kind, words[1:])
    command = tyro.cli(kind, args=words[1:])
    if isinstance(command, command_line.RunCommand):
        values = {name: getattr(command, name) for name in RunOptions.__dataclass_fields__}
        check_options(RunOptions(**values))


@pytest.mark.parametrize("page", [*PAGES, *TOPICS, ROOT / "README.md", RESULTS], ids=page_id)
def test_commands_are_ones_that_the_command_line_takes(page):
    for words in commands_of(page):
        check_command(words)


def test_a_misspelt_option_would_be_found():
    with pytest.raises(ValueError, match="--cohort"):
        check_command(["run", "--cohrt", "3"])


def test_the_pages_show_commands():
    assert len(commands_of(TUTORIAL)) >= 5
    assert len(commands_of(ROOT / "README.md")) >= 10
    assert sum(len(commands_of(page)) for page in TOPICS) >= 15
    assert len(commands_of(RESULTS)) >= 4


@pytest.mark.parametrize("page", HOW_TO, ids=page_id)
def test_quick_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = [b for b in blocks(page) if b.kind == "python" and not b.slow]
    assert execute(page, quick, command_line.main) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_page_works_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert execute(page, blocks(page), command_line.main) == []


def test_other_output_than_the_page_shows_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('loss', 0.5)\n```\n\n```text\nloss 0.7\n```\n")
    assert execute(page, blocks(page), command_line.main) == []
    page.write_text("```python\nprint('loss', 0.5)\n```\n\n```text\naccuracy 0.7\n```\n")
    assert len(execute(page, blocks(page), command_line.main)) == 1


def test_exit_codes_are_those_of_the_command():
    page = (DOCS / "command-line.md").read_text("utf-8")
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert told == _exit_codes()
    assert all(re.search(rf"\b{code}\b", command_line.USAGE) for code in told)


def _exit_codes() -> set[int]:
    """What the functions of the command line can return: whole numbers, and REFUTED."""
    tree = ast.parse(Path(command_line.__file__).read_text("utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            for value in ast.walk(node.value):
                if isinstance(value, ast.Constant) and type(value.value) is int:
                    found.add(value.value)
                if isinstance(value, ast.Name) and value.id == "REFUTED":
                    found.add(command_line.REFUTED)
    return found


def test_command_line_page_names_every_command():
    page = (DOCS / "command-line.md").read_text("utf-8")
    for command in command_line.COMMANDS:
        assert f"`fedsim {command}" in page


@pytest.mark.parametrize("room", ROOMS)
def test_reference_has_every_public_name(room):
    pages = "\n".join(p.read_text("utf-8") for p in (DOCS / "reference").glob("*.md"))
    # Some names are offered by two rooms, and described once.
    described = set(re.findall(r"^\.\. auto\w+:: (?:\w+\.)*(\w+)$", pages, re.MULTILINE))
    assert set(importlib.import_module(room).__all__) - described == set()


def test_every_folder_of_results_has_its_command():
    named = re.findall(r"^\| `(\S+)` \| `fedsim ", RESULTS.read_text("utf-8"), re.MULTILINE)
    folders = [path.name for path in RESULTS.parent.iterdir() if path.is_dir()]
    assert sorted(named) == sorted(folders)


@pytest.mark.parametrize("page", [ROOT / "README.md", RESULTS], ids=page_id)
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
