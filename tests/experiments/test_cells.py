"""Runs of an experiment are made once, in any number of processes, and never taken for others."""

import json
from dataclasses import replace

import fabricated_folder
import pytest
from fabricated_folder import broken_run, dying_run, write_run

from experiments import cells
from experiments.cells import Cell, carry_on, finish
from experiments.lock import locked
from experiments.options import RunOptions
from fedsim.errors import ConfigError


def some(count=3, **options):
    base = RunOptions(corpus="home", rounds=4, **options)
    return [Cell(name=f"run-seed{k}", options=replace(base, seed=k)) for k in range(count)]


@pytest.fixture
def executed(monkeypatch):
    """Names of the cells that were run, in order."""
    names = []

    def note(cell, path):
        names.append(cell.name)
        write_run(cell, path)

    monkeypatch.setattr(cells, "execute", note)
    return names


def test_every_cell_is_run_into_its_folder_and_read_back(tmp_path, executed):
    runs = finish(some(), tmp_path, processes=1)
    assert list(runs) == executed == ["run-seed0", "run-seed1", "run-seed2"]
    assert [run.config["seed"] for run in runs.values()] == [0, 1, 2]
    assert runs["run-seed1"].path == tmp_path / "run-seed1"


def test_finished_runs_are_never_repeated(tmp_path, executed):
    finish(some(2), tmp_path, processes=1)
    stamp = (tmp_path / "run-seed0" / "summary.json").stat().st_mtime_ns
    finish(some(3), tmp_path, processes=1)
    assert executed == ["run-seed0", "run-seed1", "run-seed2"]
    assert (tmp_path / "run-seed0" / "summary.json").stat().st_mtime_ns == stamp


def test_an_interrupted_run_starts_over(tmp_path, executed):
    finish(some(1), tmp_path, processes=1)
    (tmp_path / "run-seed0" / "summary.json").unlink()
    finish(some(1), tmp_path, processes=1)
    assert executed == ["run-seed0", "run-seed0"]


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "execute", write_run)
    (tmp_path / "run-seed0").mkdir()
    (tmp_path / "run-seed0" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError):
        finish(some(1), tmp_path, processes=1)
    assert (tmp_path / "run-seed0" / "thesis.tex").read_text() == "years of work"


def test_a_finished_run_of_other_options_is_refused_before_anything_runs(tmp_path, executed):
    finish(some(1), tmp_path, processes=1)
    with pytest.raises(ConfigError, match=r"run-seed0 holds a run with cohort=\d+, but"):
        finish(some(2, cohort=5), tmp_path, processes=1)
    assert executed == ["run-seed0"]


@pytest.mark.parametrize(
    "other", [{"devices": 9}, {"learning_rate": 0.5}, {"weighting": "equal"}, {"local_steps": 2}]
)
def test_an_option_left_open_is_no_wildcard(tmp_path, executed, other):
    finish(some(1, **other), tmp_path, processes=1)
    (name, value) = next(iter(other.items()))
    with pytest.raises(ConfigError, match=f"run with {name}={value}, but this experiment wants"):
        finish(some(1), tmp_path, processes=1)
    assert executed == ["run-seed0"]


def change(path, name, **values):
    """Change values of a run's file; None removes one."""
    contents = json.loads((path / name).read_text()) | values
    kept = {key: value for key, value in contents.items() if value is not None}
    (path / name).write_text(json.dumps(kept))


def test_an_option_that_a_record_does_not_know_had_the_effect_of_its_default(tmp_path, executed):
    finish(some(1), tmp_path, processes=1)
    recipe = json.loads((tmp_path / "run-seed0" / "config.json").read_text())["recipe"]
    recipe.pop("draw")
    change(tmp_path / "run-seed0", "config.json", recipe=recipe)
    finish(some(1), tmp_path, processes=1)
    with pytest.raises(ConfigError, match="with draw=poisson, but this experiment wants draw=fix"):
        finish(some(1, draw="fixed"), tmp_path, processes=1)


def test_an_option_that_only_the_record_knows_is_refused(tmp_path, executed):
    finish(some(1), tmp_path, processes=1)
    recipe = json.loads((tmp_path / "run-seed0" / "config.json").read_text())["recipe"]
    change(tmp_path / "run-seed0", "config.json", recipe=recipe | {"compression": "top-k"})
    with pytest.raises(ConfigError, match="with compression=top-k, but this experiment wants"):
        finish(some(1), tmp_path, processes=1)


def test_a_finished_run_of_a_script_is_refused(tmp_path, executed):
    finish(some(1), tmp_path, processes=1)
    change(tmp_path / "run-seed0", "config.json", recipe=None)
    with pytest.raises(ConfigError, match="not made from options; name another output folder"):
        finish(some(1), tmp_path, processes=1)


def test_the_folder_of_the_data_may_differ_but_not_the_data(tmp_path, executed):
    finish(some(2, data="here"), tmp_path, processes=1)
    assert len(finish(some(2, data="there"), tmp_path, processes=1)) == 2
    change(tmp_path / "run-seed1", "start.json", fingerprint="0bad")
    with pytest.raises(ConfigError, match=r"run-seed0 and .*run-seed1 were run on different data"):
        finish(some(3, data="there"), tmp_path, processes=1)
    assert executed == ["run-seed0", "run-seed1"]


def test_other_data_is_noticed_after_the_first_run_on_it(tmp_path, executed, monkeypatch):
    finish(some(1), tmp_path, processes=1)
    monkeypatch.setitem(fabricated_folder.FINGERPRINTS, "static", "0bad")
    with pytest.raises(ConfigError, match="different data"):
        finish(some(3), tmp_path, processes=1)
    assert executed == ["run-seed0", "run-seed1"]


def test_panels_of_other_seeds_are_other_data_and_those_of_the_same_seed_are_not(
    tmp_path, executed, monkeypatch
):
    finish(some(1, leakage=True), tmp_path, processes=1)
    monkeypatch.setitem(fabricated_folder.FINGERPRINTS, "static", "another")
    assert len(finish(some(2, leakage=True), tmp_path, processes=1)) == 2
    (cell,) = some(1, leakage=True)
    twin = Cell(name="twin", options=replace(cell.options, selection="sqrt"))
    with pytest.raises(ConfigError, match="different data"):
        finish([cell, twin], tmp_path, processes=1)


def test_the_cuts_of_one_population_may_have_different_fingerprints(tmp_path, executed):
    (cell,) = some(1)
    continual = Cell(name="c", options=replace(cell.options, setting="continual", periods=2))
    central = Cell(name="all", options=cell.options, central=True)
    assert len(finish([cell, continual, central], tmp_path, processes=1)) == 3


def test_a_central_run_depends_on_corpus_model_and_seed_alone(tmp_path, executed):
    (cell,) = some(1)
    finish([replace(cell, central=True)], tmp_path, processes=1)
    other = replace(cell.options, rounds=40, cohort=3, learning_rate=0.1)
    finish([Cell(name=cell.name, options=other, central=True)], tmp_path, processes=1)
    assert len(executed) == 1
    vocabulary = replace(cell.options, vocabulary="corpus")
    with pytest.raises(ConfigError, match="vocabulary=hashed"):
        finish([Cell(name=cell.name, options=vocabulary, central=True)], tmp_path, processes=1)


def test_a_bad_cell_is_refused_before_any_runs_and_leaves_no_folder(tmp_path, executed):
    good = some(1)
    bad = Cell(name="bad", options=replace(good[0].options, setting="continual", periods=9))
    with pytest.raises(ConfigError, match="choose 9 rounds or more"):
        finish([*good, bad], tmp_path / "deep" / "runs", processes=1)
    assert not executed
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_works_in_is_left_to_it(tmp_path, executed):
    finish(some(1), tmp_path, processes=1)
    (tmp_path / "run-seed1").mkdir()
    (tmp_path / "run-seed1" / "config.json").write_text("{}")
    with locked(tmp_path), pytest.raises(ConfigError, match="in use by the running process"):
        finish(some(2), tmp_path, processes=1)
    assert (tmp_path / "run-seed1" / "config.json").exists()
    finish(some(2), tmp_path, processes=1)
    assert executed == ["run-seed0", "run-seed1"]


def test_finished_runs_are_read_while_another_process_works_in_the_folder(tmp_path, executed):
    finish(some(2), tmp_path, processes=1)
    with locked(tmp_path):
        assert len(finish(some(2), tmp_path, processes=1)) == 2


def test_an_interrupt_leaves_finished_runs_and_no_lock(tmp_path, monkeypatch):
    def interrupted(cell, path):
        if cell.options.seed == 1:
            raise KeyboardInterrupt
        write_run(cell, path)

    monkeypatch.setattr(cells, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finish(some(), tmp_path, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run-seed0"]


def test_what_cannot_change_a_result_may_differ(tmp_path, executed):
    finish(some(1), tmp_path, processes=1)
    finish(some(1, workers=1), tmp_path, processes=1)
    assert executed == ["run-seed0"]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "execute", write_run)
    alone = finish(some(), tmp_path / "one", processes=1)
    shared = finish(some(), tmp_path / "two", processes=2)
    assert list(alone) == list(shared)
    for name in alone:
        assert alone[name].rounds == shared[name].rounds


@pytest.mark.slow
def test_a_crash_names_the_run_keeps_the_others_and_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "execute", broken_run)
    with pytest.raises(ConfigError, match=r"1 of 3 runs failed, the first run-seed1: the machine"):
        finish(some(), tmp_path, processes=2)
    assert cells.is_finished(tmp_path / "run-seed0")
    assert cells.is_finished(tmp_path / "run-seed2")
    monkeypatch.setattr(cells, "execute", write_run)
    assert len(finish(some(), tmp_path, processes=1)) == 3


def test_runs_of_a_sweep_go_on_without_those_that_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "_go_on", broken_run)
    ended = carry_on(some(), tmp_path, processes=1)
    assert [str(getattr(run, "path", run)) for run in ended.values()] == [
        str(tmp_path / "run-seed0"),
        "the machine caught fire",
        str(tmp_path / "run-seed2"),
    ]


def test_an_interrupted_run_of_other_options_is_refused_before_a_sweep_begins(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(cells, "_go_on", write_run)
    carry_on(some(1), tmp_path, processes=1)
    (tmp_path / "run-seed0" / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"run-seed0 holds a run with cohort=\d+, but"):
        carry_on(some(2, cohort=5), tmp_path, processes=1)
    assert not (tmp_path / "run-seed1").exists()


@pytest.mark.slow
def test_a_process_that_dies_stops_no_run_that_had_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "_go_on", dying_run)
    ended = carry_on(some(5), tmp_path, processes=2)
    assert "terminated abruptly" in str(ended["run-seed1"])
    assert all(ended[f"run-seed{k}"].path for k in (3, 4))
