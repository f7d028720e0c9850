"""What does a page of the documentation tell its reader to type, and what does it show in return?

Fenced blocks count: `sh` (its lines that begin with `fedsim`), `python`, and `text`, which is what
the block before it prints. `<!-- slow -->` above a block says that it takes more than a few seconds
or goes on from one that does.
"""

import doctest
import re
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))

_FENCE = re.compile(
    r"^(<!-- slow -->\n+)?```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_NUMBER = re.compile(r"[-+]?\d+([,.]\d+)*(e-?\d+)?")
_CHECKER = doctest.OutputChecker()


class Block(NamedTuple):
    """A fenced block.

    Attributes:
      line: of the page, from 1.
      kind: "sh" or "python".
      text: what is inside.
      slow: whether it takes more than a few seconds.
      printed: what the page says it prints, or None where it says nothing.
    """

    line: int
    kind: str
    text: str
    slow: bool
    printed: str | None

    def commands(self) -> list[list[str]]:
        """The words of every `fedsim` command of an `sh` block, without `fedsim` itself."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(line)[1:] for line in lines if line.startswith("fedsim ")]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that do something, in its order."""
    text = page.read_text("utf-8")
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        slow, kind, inside = fence.groups()
        if kind == "text":
            if found and not text[end : fence.start()].strip():
                found[-1] = found[-1]._replace(printed=inside)
            continue
        line = text.count("\n", 0, fence.start(3))
        found.append(Block(line, kind, inside, slow is not None, None))
        end = fence.end()
    return found


def execute(
    page: Path, chosen: list[Block], fedsim: Callable[[list[str]], int]
) -> list[tuple[int, str]]:
    """Do what a page says in the working directory, and compare what it prints.

    Args:
      page: where the blocks are from.
      chosen: blocks, in order; Python ones share their names.
      fedsim: runs a command by its words, and returns its exit code.

    Returns:
      Line and complaint of every block that printed something else than the page says; numbers
      may differ, and `...` stands for anything.
    """
    names: dict[str, Any] = {"__name__": "page"}
    wrong = []
    for block in chosen:
        said = StringIO()
        with redirect_stdout(said):
            if block.kind == "python":
                source = "\n" * block.line + block.text
                exec(compile(source, str(page), "exec"), names)
            for words in block.commands() if block.kind == "sh" else ():
                code = fedsim(words)
                if code != 0:
                    wrong.append((block.line, f"fedsim {shlex.join(words)} ended with {code}"))
        if block.printed is not None and not _alike(block.printed, said.getvalue()):
            wrong.append((block.line, f"printed:\n{said.getvalue()}"))
    return wrong


def _alike(expected: str, printed: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return _CHECKER.check_output(_masked(expected), _masked(printed), flags)


def _masked(text: str) -> str:
    """Without numbers, widths of tables and bold type, which follow from the numbers."""
    return _NUMBER.sub("#", re.sub(r"-{2,}", "-", text.replace("*", "")))
