"""Runs of an experiment are made once, in any number of processes, and never taken for others."""

from dataclasses import replace

import pytest
from fabricated_folder import broken_run, write_run

from experiments import cells
from experiments.cells import Cell, finish
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
    with pytest.raises(ConfigError, match=r"run-seed0 holds a finished run with cohort=\d+, but"):
        finish(some(2, cohort=5), tmp_path, processes=1)
    assert executed == ["run-seed0"]


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
