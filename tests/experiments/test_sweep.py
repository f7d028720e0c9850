"""A recipe names its runs before any is made; each is made once, and no failure stops others."""

import json
from pathlib import Path

import pytest

from experiments.command_line import main
from experiments.run_options import RunOptions
from experiments.sweep import cells_of, listing, run_cells
from fedsim import ConfigError, load_run
from fedsim.record.checkpoint import Checkpoints

EXAMPLE = Path(__file__).parents[2] / "experiments" / "sweep-example.toml"
SMALL = """
[options]
devices = 8
cohort = 3
rounds = 3
workers = 0
"""


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


class TestCells:
    def test_every_combination_is_a_run_with_the_shared_options(self, recipe):
        cells = cells_of(
            recipe(
                "[options]\nlocal-epochs = 2\n[grid]\nselection = ['uniform', 'activity']\n"
                "learning_rate = [1, 0.5]\nseed = [0, 1]"
            )
        )
        expected = [
            RunOptions(local_epochs=2, selection=selection, learning_rate=rate, seed=seed)
            for seed in (0, 1)
            for selection in ("uniform", "activity")
            for rate in (1.0, 0.5)
        ]
        assert [cell.options for cell in cells] == expected
        assert cells[0].name == "selection-uniform_learning-rate-1.0_seed-0"
        assert len({cell.name for cell in cells}) == 8

    def test_several_grids_hold_options_that_do_not_go_with_each_other(self, recipe):
        cells = cells_of(
            recipe("[[grid]]\ndp = ['none']\n[[grid]]\ndp = ['device']\nepsilon = [2, 8]\n")
        )
        assert [(c.options.dp, c.options.epsilon) for c in cells] == [
            ("none", None),
            ("device", 2.0),
            ("device", 8.0),
        ]

    def test_names_stay_when_a_list_grows(self, recipe):
        few = [cell.name for cell in cells_of(recipe("[grid]\ncohort = [4]"))]
        more = [cell.name for cell in cells_of(recipe("[grid]\ncohort = [2, 4, 8]"))]
        assert set(few) < set(more)

    def test_values_that_read_alike_in_a_folder_s_name_have_folders_of_their_own(self, recipe):
        cells = cells_of(recipe("[grid]\ncorpus = ['a/b.csv', 'a b.csv']"))
        assert len({cell.name for cell in cells}) == 2
        assert not any(set("/ ") & set(cell.name) for cell in cells)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("[grid]\ncohrt = [3]", r"\[grid\] has unknown option 'cohrt' \(did you mean 'cohort'"),
            ("[options]\nroundz = 3", r"\[options\] has unknown option 'roundz' \(did you mean 'r"),
            ("[gird]\ncohort = [3]", r"has 'gird' \(did you mean 'grid'\?\); expected \[options\]"),
            ("cohort = 3", "has 'cohort'; expected"),
            ("[options]\nout = 'x'", "a run's folder is named after its values"),
            ("[options]\nseed = [0, 1]", r"seed holds \[0, 1\]; expected a single .* in \[grid\]"),
            ("[grid]\nseed = 3", r"seed is 3; expected a list of one value or more"),
            ("[grid]\nseed = []", r"seed is \[\]; expected a list of one value or more"),
            ("[grid]\nrounds = ['many']", "rounds is 'many'; expected a whole number"),
            ("[grid]\nselection = ['tpo']", r"selection is 'tpo' \(did you mean 'top'\?\)"),
            ("[grid]\nleakage = [1]", "leakage is 1; expected true or false"),
            ("[options]\ncohort = 2\n[grid]\ncohort = [3]", r"in \[options\] and in \[grid\]"),
            ("[grid]\ncohort = [3, 3]", "asks for the same run twice: cohort-3 and cohort-3"),
            ("[grid]\npower = [1.0, 2.0]", "run power-2.0: power is 2, which --selection uniform"),
            ("[grid]\nepsilon = [8]", "run epsilon-8.0: "),
            ("grid = 3", r"\[grid\] is 3; expected a table"),
            ("[grid", "is no TOML"),
        ],
    )
    def test_what_cannot_be_run_is_refused_with_the_place(self, recipe, text, expected):
        with pytest.raises(ConfigError, match=expected):
            cells_of(recipe(text))

    def test_engines_with_processes_of_their_own_run_one_at_a_time(self, recipe, tmp_path):
        cells = cells_of(recipe("[options]\nengine = 'flower'\n[grid]\nseed = [0, 1]"))
        with pytest.raises(ConfigError, match=r"seed-0 has engine 'flower'.*--processes 1"):
            run_cells(cells, tmp_path / "out", processes=2)


class TestCommand:
    def test_a_list_names_the_runs_and_runs_nothing(self, capsys, tmp_path):
        assert main(["sweep", str(EXAMPLE), "--list", "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"8 runs in {tmp_path / 'out' / 'runs'}: 8 new"
        assert said[1].split() == ["new", "selection-uniform_seed-0"]
        assert list(tmp_path.iterdir()) == []

    def test_a_bad_recipe_is_refused_before_anything_runs(self, recipe, capsys, tmp_path):
        path = recipe(SMALL + "[grid]\nseeds = [0]")
        assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "did you mean 'seed'?" in said
        assert main(["sweep", str(tmp_path / "no.toml")]) == 2
        assert "No such file" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == [path]

    def test_a_run_that_fails_is_named_and_the_others_are_made(self, recipe, capsys, tmp_path):
        path = recipe(SMALL.replace("cohort = 3", "") + "[grid]\ncohort = [9, 3]")
        words = ["sweep", str(path), "--out", str(tmp_path / "out"), "--processes", "1"]
        assert main(words) == 2
        said = capsys.readouterr()
        assert "fedsim: cohort-9 failed: " in said.err and "choose 8 or fewer" in said.err
        assert "1 of 2 runs are finished" in said.out
        assert load_run(tmp_path / "out" / "runs" / "cohort-3").summary["rounds"] == 3
        assert not (tmp_path / "out" / "runs" / "cohort-9").exists()

    def test_an_interrupted_sweep_goes_on_from_the_checkpoint_and_repeats_no_run(
        self, recipe, capsys, tmp_path, monkeypatch
    ):
        path, out = recipe(SMALL + "[grid]\nseed = [0, 1, 2]"), tmp_path / "out"
        words = ["sweep", str(path), "--out", str(out), "--processes", "1"]
        keep, restore, begun = Checkpoints.keep, Checkpoints.restore, []

        def stop(checkpoints, round, *rest, **more):
            keep(checkpoints, round, *rest, **more)
            if round == 2 and (out / "runs" / "seed-0" / "summary.json").exists():
                raise KeyboardInterrupt

        def noted(checkpoints, parameters):
            begun.append(restore(checkpoints, parameters)[0])
            return restore(checkpoints, parameters)

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "keep", stop)
            assert main(words) == 130
        assert "and the same command goes on from there" in capsys.readouterr().err
        states = [line.split()[0] for line in listing(cells_of(path), out).splitlines()[1:]]
        assert states == ["finished", "interrupted", "new"]
        stamp = (out / "runs" / "seed-0" / "summary.json").stat().st_mtime_ns
        monkeypatch.setattr(Checkpoints, "restore", noted)
        assert main(words) == 0
        assert begun == [2, 0]
        assert (out / "runs" / "seed-0" / "summary.json").stat().st_mtime_ns == stamp
        whole = run_cells(cells_of(path)[1:2], tmp_path / "whole", processes=1)
        shas = [
            json.loads((folder / "runs" / "seed-1" / "summary.json").read_text())["model_sha256"]
            for folder in (out, tmp_path / "whole")
        ]
        assert shas[0] == shas[1] == whole["seed-1"].summary["model_sha256"]

    def test_another_recipe_into_the_same_folder_is_refused(self, recipe, capsys, tmp_path):
        words = ["--out", str(tmp_path / "out"), "--processes", "1"]
        assert main(["sweep", str(recipe(SMALL + "[grid]\nseed = [0]")), *words]) == 0
        capsys.readouterr()
        changed = recipe(SMALL.replace("rounds = 3", "rounds = 4") + "[grid]\nseed = [0, 1]")
        assert main(["sweep", str(changed), *words]) == 2
        assert "seed-0 holds a run with rounds=3, but this" in capsys.readouterr().err
        assert not (tmp_path / "out" / "runs" / "seed-1").exists()

    @pytest.mark.slow
    def test_the_example_is_joined_by_tables_and_report(self, capsys, tmp_path):
        out = tmp_path / "out"
        assert main(["sweep", str(EXAMPLE), "--out", str(out), "--processes", "2"]) == 0
        first = out / "runs" / "selection-uniform_seed-0"
        assert f"fedsim tables {first} {out}" in capsys.readouterr().out
        assert main(["tables", str(first), str(out)]) == 0
        said = capsys.readouterr().out
        assert said.index("| uniform") < said.index("| activity")
        assert said.count("dp device") >= 2
        assert main(["report", str(out)]) == 0
        assert "8 runs of 4 kinds" in (out / "report.html").read_text()
