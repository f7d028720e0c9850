"""How is the documentation built? `make docs` runs Sphinx over this folder, without a network."""

import re
from pathlib import Path

from sphinx.application import Sphinx

from fedsim import __version__

RESULTS = Path(__file__).parents[1] / "experiments" / "results"

project = "fedsim"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["report"]
# Headings are link targets, so that a link to one that is gone fails the build.
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"fedsim {release}"
html_copy_source = False
html_show_copyright = False

# In docstrings a word between backticks is code.
default_role = "code"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
napoleon_use_rtype = False


def results(app: Sphinx, page: str, source: list[str]) -> None:
    """Put every folder of experiments/results, as it is now, on the page of results."""
    if page == "results":
        app.env.note_reread()
        told = (RESULTS / "README.md").read_text("utf-8")
        commands = dict(re.findall(r"^\| `(\S+)` \| `(.+?)` \|", told, re.MULTILINE))
        folders = sorted(folder for folder in RESULTS.iterdir() if folder.is_dir())
        source[0] += "".join(_section(folder, commands[folder.name]) for folder in folders)


def _section(folder: Path, command: str) -> str:
    """A folder's command, tables and figures."""
    place = f"../experiments/results/{folder.name}"
    parts = [f"\n## {folder.name}", f"```sh\n{command}\n```"]
    parts += [file.read_text("utf-8") for file in sorted(folder.glob("*.md"))]
    parts += [f"![{file.stem}]({place}/{file.name})" for file in sorted(folder.glob("*.svg"))]
    return "\n\n".join(parts) + "\n"


def setup(app: Sphinx) -> None:
    """Let Sphinx call what is above."""
    app.connect("source-read", results)
