"""The notebook runs from its first cell to its last, and shows what it says it shows."""

import ast
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from fedsim.report.table import Table

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def code_cells() -> list[str]:
    """Sources of the code cells, without the notebook's own commands."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return [
        "\n".join(line for line in source.splitlines() if not line.startswith("%"))
        for source in sources
    ]


def executed(source: str, names: dict) -> object:
    """Run a cell and return the value of its last line, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_what_it_shows_is_text_and_figures_and_names_no_place_of_a_machine():
    text = NOTEBOOK.read_text("utf-8")
    outputs = [output for cell in json.loads(text)["cells"] for output in cell.get("outputs", ())]
    kinds = {output["output_type"] for output in outputs}
    assert kinds == {"stream", "execute_result"}
    assert all(output["name"] == "stdout" for output in outputs if "name" in output)
    assert not any(place in text for place in ("/tmp/", "/home/", "/root/", "site-packages"))
    assert len(code_cells()) == sum("execution_count" in c for c in json.loads(text)["cells"])


@pytest.mark.slow
def test_every_cell_runs_and_its_claims_hold(capsys):
    matplotlib.use("agg")
    names: dict = {"__name__": "__main__"}
    shown = [executed(source, names) for source in code_cells()]
    figures = [value for value in shown if isinstance(value, Figure)]
    assert len(figures) == 2 and all(figure.axes for figure in figures)
    assert isinstance(names["first"].table(), Table)
    assert [group.label for group in names["groups"]] == ["uniform", "activity"]
    examples = [
        sum(line["cohort_examples"] for run in group.runs for line in run.rounds)
        for group in names["groups"]
    ]
    assert examples[1] > examples[0], "activity-based selection reads more data a round"
    uniform, active = (run.arrays("ledger") for run in names["private"])
    assert np.ptp(uniform["epsilon"]) < 1e-9, "uniform selection charges all devices alike"
    held = names["activity"][active["devices"]]
    assert held.min() == names["activity"].min() and held.max() == names["activity"].max()
    assert active["epsilon"].argmax() == held.argmax(), "the most active device pays most"
    assert active["epsilon"].max() > uniform["epsilon"].max()
    assert "activity and membership are treated as public" in capsys.readouterr().out
