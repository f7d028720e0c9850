"""The leakage experiment: one panel for all rows, claims that hold, a verdict that follows."""

from dataclasses import replace

import numpy as np
import pytest

import experiments.leakage as experiment
from experiments.command_line import REFUTED, main
from experiments.leakage import leakage, preset_options
from experiments.leakage_rows import rows_of
from experiments.options import RunOptions, check_options
from fedsim.record import load_run
from fedsim.report.exposure import DEVICE, EDP, EXAMPLE, NONE

OPTIONS = RunOptions(
    corpus="home", devices=12, cohort=4, rounds=3, periods=2, evaluate_every=1, leakage=True,
    workers=0,
)  # fmt: skip
NOISE = {EXAMPLE: (0.0, 0.4), EDP: (0.4,), DEVICE: (0.4,)}
SIZE = replace(experiment.PRESETS["quick"], noise=NOISE)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("leakage")


@pytest.fixture(scope="module")
def table(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment.PRESETS, "quick", SIZE)
        yield leakage(OPTIONS, out=folder, processes=1)


def column(table, key):
    return [row[key] for row in table.rows]


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_every_row_can_be_run_and_has_a_name_of_its_own(preset):
    rows = rows_of(preset_options(preset), experiment.PRESETS[preset].noise)
    cells = [row.cell(seed) for row in rows for seed in (0, 1)]
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.options.leakage
        check_options(cell.options)
    assert {cell.options.clipping for cell in cells} == {"flat", "edp-sgd"}


def attacked(folder):
    """Folders of runs with a panel, and of those on all data."""
    paths = sorted((folder / "runs").iterdir())
    without = [path for path in paths if "-all-data-" in path.name]
    return [path for path in paths if path not in without], without


def test_all_rows_are_attacked_on_the_same_utterances_under_the_same_coins(folder, table):
    panels = [load_run(path).arrays("panel") for path in attacked(folder)[0]]
    assert len(panels) == 4 * 5
    for panel in panels:
        assert np.array_equal(panel["rows"], panels[0]["rows"])
        assert np.array_equal(panel["included"], panels[0]["included"])
    members = int(panels[0]["included"].sum())
    assert set(column(table, "members")) == {members}
    assert set(column(table, "non_members")) == {len(panels[0]["rows"]) - members}


def test_what_the_panel_cost_is_read_off_the_same_training_on_all_data(folder, table):
    without = [load_run(path) for path in attacked(folder)[1]]
    assert len(without) == 4
    recorded = []
    for run in without:
        recipe = run.config["recipe"]
        assert (recipe["leakage"], recipe["dp"], run.start["probes"]) == (False, "none", {})
        recorded.append(run.rounds[-1]["intent_accuracy"])
    shown = [e.mean for e in column(table, "accuracy_without_panel") if e is not None]
    assert sorted(shown) == sorted(recorded)
    assert [e is not None for e in column(table, "accuracy_without_panel")] == 4 * [
        privacy == NONE for privacy in column(table, "privacy")[:5]
    ]
    assert any(note.startswith("What the panel cost") for note in table.notes)


def test_only_noise_makes_a_claim(table):
    for row in table.rows:
        assert np.isfinite(row["epsilon"]) == (row["noise_multiplier"] is not None)
        assert np.isfinite(row["epsilon_claim"]) == (row["noise_multiplier"] is not None)
    assert column(table, "privacy")[:5] == [NONE, "clipping alone", EXAMPLE, EDP, DEVICE]


def test_eDP_SGD_pays_twice_the_sensitivity_at_the_same_noise(table):
    epsilon = dict(zip(column(table, "privacy")[:5], column(table, "epsilon")[:5], strict=True))
    assert epsilon[EDP] > 1.9 * epsilon[EXAMPLE]


def test_no_bound_exceeds_its_claim(table):
    assert column(table, "refuted") == [None] * 20
    assert all(row["epsilon_audit_low"] <= row["epsilon_claim"] for row in table.rows)


def test_three_figures_have_a_panel_a_setting_and_policy(table):
    figures = table.figures()
    assert [len(figure.axes) for figure in figures.values()] == [8, 4, 4]
    assert figures["roc"].axes[0].get_xscale() == figures["roc"].axes[0].get_yscale() == "log"
    below = figures["auc-and-epsilon-per-round"].axes[4]
    assert len(below.lines) == 3, "epsilons of the rows that have one"


def test_nothing_is_run_twice(folder, table, monkeypatch):
    def never(*_, **__):
        raise AssertionError("done before")

    monkeypatch.setitem(experiment.PRESETS, "quick", SIZE)
    monkeypatch.setattr("experiments.cells.execute", never)
    assert leakage(OPTIONS, out=folder, processes=1).csv() == table.csv()


def test_a_noise_level_of_the_users_own_is_refused(capsys):
    assert main(["experiment", "leakage", "--epsilon", "8"]) == 2
    assert "experiment leakage has noise levels of its own; leave it out" in capsys.readouterr().err


def test_a_refuted_claim_ends_the_command_with_its_own_exit_code(
    table, tmp_path, monkeypatch, capsys
):
    found = replace(table, rows=[table.rows[0] | {"refuted": "more than is claimed"}], drawings={})
    monkeypatch.setattr(experiment, "leakage", lambda *_, **__: found)
    arguments = ["experiment", "leakage", "--out", str(tmp_path / "out")]
    assert main(arguments) == REFUTED
    assert "fedsim: more than is claimed" in capsys.readouterr().err
    found.rows[0]["refuted"] = None
    assert main(arguments) == 0
