"""The command answers at once, runs, and refuses bad input in one sentence with exit code 2."""

import errno
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

import experiments.recipe
import experiments.selection
from experiments.command_line import main
from experiments.commands import RunCommand
from experiments.help_groups import HEADINGS
from fedsim import __version__, load_run
from fedsim.record.checkpoint import Checkpoints

FLAGS = re.MULTILINE | re.DOTALL
SMALL = ["--devices", "8", "--cohort", "3", "--rounds", "2", "--workers", "0"]


def refused(capsys, *arguments: str) -> str:
    """What the command says on standard error when it refuses; nothing goes to standard output."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


def sentence(capsys, *arguments: str) -> str:
    """The same, where it must be a single line."""
    said = refused(capsys, *arguments)
    assert said.startswith("fedsim: ")
    assert said.count("\n") == 1
    return said


def in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )


class TestHelp:
    @pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
    def test_usage_names_the_commands(self, capsys, arguments):
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert "run " in said
        assert "experiment NAME" in said

    @pytest.mark.parametrize("command", ["run", "experiment"])
    def test_help_of_a_command_ends_well_and_lists_its_options(self, capsys, command):
        assert main([command, "--help"]) == 0
        assert "--cohort" in capsys.readouterr().out

    def test_help_of_run_has_every_option_once_under_the_heading_where_it_begins(self, capsys):
        assert main(["run", "--rounds", "3", "--help"]) == 0
        said = capsys.readouterr().out
        listed = re.findall(r"^\W --([a-z][a-z-]+)", said, re.MULTILINE)
        assert listed == [field.name.replace("_", "-") for field in fields(RunCommand)]
        begin = re.findall(r"^\W+([a-z]+) options [^a-z].*?^\W --([a-z][a-z-]+)", said, FLAGS)
        assert begin == [(name, key.replace("_", "-")) for key, (name, _) in HEADINGS.items()]

    def test_version(self, capsys):
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"fedsim {__version__}\n"

    def test_help_imports_nothing_heavy_and_answers_at_once(self):
        script = (
            "import sys\n"
            "from experiments.command_line import main\n"
            "main(['run', '--help'])\n"
            "heavy = {'torch', 'flwr', 'datasets', 'numpy', 'matplotlib'} & set(sys.modules)\n"
            "sys.exit(f'imported {heavy}' if heavy else 0)\n"
        )
        began = time.perf_counter()
        done = in_process("-c", script)
        assert done.returncode == 0, done.stderr
        # A second on an idle machine takes half of one; the rest is room for busy ones.
        assert time.perf_counter() - began < 5


class TestRun:
    def test_it_prints_the_figures_and_leaves_a_record(self, capsys, tmp_path):
        out = tmp_path / "run"
        assert main(["run", *SMALL, "--selection", "activity", "--out", str(out)]) == 0
        said = capsys.readouterr().out
        run = load_run(out)
        assert run.table().markdown() in said
        assert f"Record: {out}" in said
        assert run.config["recipe"]["selection"] == "activity"
        assert run.config["weighting"] == "equal"
        assert run.config["recipe"]["weighting"] == "auto"

    def test_the_same_options_give_the_same_model_in_a_process_of_its_own(self, tmp_path):
        a, b = tmp_path / "a", tmp_path / "b"
        assert main(["run", *SMALL, "--out", str(a)]) == 0
        done = in_process("-m", "experiments", "run", *SMALL, "--out", str(b))
        assert done.returncode == 0, done.stderr
        shas = [json.loads((x / "summary.json").read_text())["model_sha256"] for x in (a, b)]
        assert shas[0] == shas[1]

    def test_without_a_folder_nothing_is_written(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["run", *SMALL]) == 0
        assert list(tmp_path.iterdir()) == []
        assert "Record" not in capsys.readouterr().out

    def test_a_shortage_is_noted_under_the_table(self, capsys):
        continual = ["--setting", "continual", "--periods", "3", "--rounds", "3", "--workers", "0"]
        assert main(["run", "--devices", "8", "--cohort", "8", *continual]) == 0
        assert "Note: in period 3" in capsys.readouterr().out

    def test_failed_devices_are_counted_in_one_line(self, capsys, monkeypatch):
        def unlucky(self, *_, device, **__):
            raise RuntimeError("out of battery")

        monkeypatch.setattr("fedsim.training.trainer.LocalTrainer.train", unlucky)
        assert main(["run", *SMALL]) == 0
        said = capsys.readouterr().out
        (line,) = (line for line in said.splitlines() if "trainings" in line)
        failed, asked = (int(word) for word in line.split() if word.isdecimal())
        assert failed == asked > 0
        assert line == f"Note: {failed} of {asked} trainings on devices failed ({failed} train)."
        assert "failed so far" in said

    def test_simulated_faults_are_said_and_stand_in_the_record(self, capsys, tmp_path):
        assert main(["run", *SMALL, "--faults", "dropout=1", "--out", str(tmp_path / "r")]) == 0
        assert "Note: faults were simulated (dropout=1): " in capsys.readouterr().out
        recorded = json.loads((tmp_path / "r" / "config.json").read_text())
        assert recorded["recipe"]["faults"] == "dropout=1"
        assert recorded["simulation"]["faults"]["dropout"] == 1.0

    def test_faults_that_make_no_sense_are_refused_in_one_sentence(self, capsys, tmp_path):
        assert main(["run", "--faults", "dropuot=.3", "--out", str(tmp_path / "r")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("fedsim: faults names 'dropuot' (did you mean 'dropout'?)")
        assert said.count("\n") == 1 and list(tmp_path.iterdir()) == []

    def test_no_line_about_failures_where_there_are_none(self, capsys):
        assert main(["run", *SMALL]) == 0
        assert "failed" not in capsys.readouterr().out


class TestResume:
    @pytest.fixture
    def interrupted(self, tmp_path, monkeypatch):
        """The folder of a run that was interrupted after one round."""
        keep = Checkpoints.keep

        def stop(checkpoints, round, *rest, **options):
            keep(checkpoints, round, *rest, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "keep", stop)
            assert main(["run", *SMALL, "--out", str(tmp_path / "my run")]) == 130
        return tmp_path / "my run"

    def test_an_interrupt_prints_the_command_that_goes_on(self, capsys, interrupted):
        said = capsys.readouterr().err
        assert said == f"fedsim: interrupted; fedsim resume '{interrupted}' goes on from there\n"

    def test_it_ends_as_the_run_would_have(self, interrupted, capsys, tmp_path):
        assert main(["run", *SMALL, "--out", str(tmp_path / "whole")]) == 0
        table = capsys.readouterr().out.partition("Record")[0]
        assert main(["resume", str(interrupted)]) == 0
        said = capsys.readouterr().out
        assert said == f"{table}Record: {interrupted}\n"
        shas = [load_run(p).summary["model_sha256"] for p in (interrupted, tmp_path / "whole")]
        assert shas[0] == shas[1]

    def test_it_goes_on_from_the_config_alone(self, tmp_path, monkeypatch):
        """A run that was stopped while its corpus was read."""
        seen = []

        def interrupted(options):
            seen.extend(path.name for path in (tmp_path / "run").iterdir())
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(experiments.recipe, "population_of", interrupted)
            assert main(["run", *SMALL, "--out", str(tmp_path / "run")]) == 130
        assert seen == ["config.json"]
        assert main(["resume", str(tmp_path / "run")]) == 0
        assert load_run(tmp_path / "run").summary["rounds"] == 2

    def test_the_folder_is_claimed_before_anything_heavy_is_imported(self, tmp_path):
        script = (
            "import sys\n"
            "import experiments.recipe\n"
            "from experiments.command_line import main\n"
            "def stop(options):\n"
            "    heavy = {'torch', 'flwr', 'datasets'} & set(sys.modules)\n"
            "    sys.exit(f'imported {heavy}' if heavy else 0)\n"
            "experiments.recipe.build = stop\n"
            f"sys.exit(main(['run', '--out', {str(tmp_path / 'run')!r}]))\n"
        )
        done = in_process("-c", script)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]

    def test_a_finished_run_is_said_to_be(self, capsys, tmp_path):
        main(["run", *SMALL, "--out", str(tmp_path / "run")])
        capsys.readouterr()
        assert main(["resume", str(tmp_path / "run")]) == 0
        assert "is finished; there is nothing left to do" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda c: c.update(recipe=None), "holds the run of a script; it goes on by the same"),
            (lambda c: c.update(central={}), "a model trained centrally, without rounds; give"),
            (lambda c: c["environment"].update(fedsim="9"), 'environment.fedsim ("9" there, "0.'),
            (lambda c: c["recipe"].update(wings=2), "its options differ by wings; run the"),
        ],
        ids=["script", "central", "version", "options"],
    )
    def test_what_cannot_go_on_is_refused(self, interrupted, capsys, change, expected):
        config = json.loads((interrupted / "config.json").read_text())
        change(config)
        (interrupted / "config.json").write_text(json.dumps(config))
        capsys.readouterr()
        assert expected in sentence(capsys, "resume", str(interrupted))

    def test_a_folder_without_a_run_is_refused(self, capsys, tmp_path):
        assert "holds no run (config.json); name the" in sentence(capsys, "resume", str(tmp_path))
        (tmp_path / "config.json").write_text('{"rec')
        assert "config.json cannot be read: it is" in sentence(capsys, "resume", str(tmp_path))
        assert "folder is missing; write it after" in sentence(capsys, "resume")

    @pytest.mark.usefixtures("usual_signals")
    def test_ctrl_c_in_a_terminal_ends_with_130_and_a_checkpoint(self, tmp_path):
        words = ["run", *SMALL, "--rounds", "5000", "--out", str(tmp_path / "run")]
        with subprocess.Popen(
            [sys.executable, "-m", "experiments", *words],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            saved = tmp_path / "run" / "checkpoint"
            while process.poll() is None and not list(saved.glob("round-*.npz")):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert said == f"fedsim: interrupted; fedsim resume {tmp_path}/run goes on from there\n"
        assert list(saved.glob("round-*.npz"))


class TestReportAndTables:
    @pytest.fixture(scope="class")
    def runs(self, tmp_path_factory):
        """A folder of three finished runs: a policy with two seeds, and another."""
        folder = tmp_path_factory.mktemp("runs")
        for name, words in {
            "a-seed0": ["--selection", "activity", "--seed", "0"],
            "a-seed1": ["--selection", "activity", "--seed", "1"],
            "b-seed0": ["--seed", "0"],
        }.items():
            assert main(["run", *SMALL, *words, "--out", str(folder / name)]) == 0
        return folder

    def test_a_page_stands_in_the_only_folder_that_was_named(self, runs, capsys):
        assert main(["report", str(runs / "a-seed0")]) == 0
        page = runs / "a-seed0" / "report.html"
        assert f"Page: {page}" in capsys.readouterr().out
        assert page.read_text().startswith("<!DOCTYPE html>")
        assert list((runs / "a-seed0" / "report-files").glob("learning.*"))

    def test_several_folders_are_compared_where_out_says(self, runs, tmp_path):
        words = [str(runs / "b-seed0"), str(runs / "a-seed0"), "--out", str(tmp_path / "x.html")]
        assert main(["report", *words]) == 0
        said = (tmp_path / "x.html").read_text()
        assert "2 runs of 2 kinds (uniform; activity)" in said

    def test_a_table_has_a_row_for_runs_that_differ_in_the_seed(self, runs, tmp_path, capsys):
        assert main(["tables", str(runs / "b-seed0"), str(runs), "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert said.index("| uniform ") < said.index("| activity")
        assert (tmp_path / "table.md").read_text() in said
        assert (tmp_path / "table.csv").read_text().count("\n") == 3
        assert "booktabs" in (tmp_path / "table.tex").read_text()


class TestExperiment:
    @pytest.fixture
    def asked(self, monkeypatch):
        """What the experiment is called with; it then stops as if interrupted."""
        calls = []

        def selection(options, **settings):
            calls.append((options, settings))
            raise KeyboardInterrupt

        monkeypatch.setattr(experiments.selection, "selection", selection)
        return calls

    def test_its_options_reach_every_run(self, asked):
        given = {
            "corpus": "talk.csv", "columns": "user=who", "partition": "iid", "labels": "l.json",
            "devices": 9, "rounds": 8, "periods": 4, "by": "clock", "keep": "window:2",
            "cohort": 3, "model": "transformer", "seed": 6, "data": "here",
        }  # fmt: skip
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        main(["experiment", "selection", *words])
        ((options, _),) = asked
        assert {key: getattr(options, key) for key in given} == given
        assert options.evaluate_every == 4

    def test_another_corpus_is_not_refused_for_the_presets_devices(self, asked):
        main(["experiment", "selection", "--corpus", "massive"])
        assert asked[0][0].devices is None

    def test_an_interrupt_says_how_to_go_on(self, asked, capsys):
        assert main(["experiment", "selection"]) == 130
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "interrupted; finished runs are kept, and the same command goes on" in said


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (
                ["rnu"],
                "unknown command 'rnu' (did you mean 'run'?); choose one of run, resume, "
                "experiment, sweep, bench, report, tables",
            ),
            (["zzz"], "unknown command 'zzz'; choose one of run, resume, experiment, sweep"),
            (["report"], "folders is missing; write it after the command"),
            (["tables", "nowhere"], "nowhere holds no finished run (config.json and summary"),
            (["report", "a", "b", "--ot", "c"], "unknown option --ot (did you mean '--out'?)"),
            (["bench", "dpsgd", "--workers", "2"], "bench dpsgd trains no devices; leave it out"),
            (["bench", "dpsgd", "--pfl-python", "p"], "names another simulator for bench round"),
            (["run", "--cohrt", "3"], "unknown option --cohrt (did you mean '--cohort'?)"),
            (["run", "--sellection=top"], "--sellection (did you mean '--selection'?)"),
            (["run", "--qqqq"], "unknown option --qqqq; see --help"),
            (["experiment", "selection", "--sedes", "2"], "did you mean '--seeds'?"),
            (["run", "--rounds", "0"], "rounds is 0; choose 1 or more"),
            (["run", "--cohort", "0"], "cohort is 0; choose 1 or more"),
            (["run", "--seed", "-1"], "seed is -1; choose 0 or more"),
            (["run", "--learning-rate", "-0.1"], "learning_rate is -0.1; choose a finite"),
            (["run", "--learning-rate", "inf"], "learning_rate is inf; choose a finite"),
            (["run", "--batch-size", "0"], "batch_size is 0; choose 1 or more"),
            (["run", "--proximal-mu", "-1", "--strategy", "fedprox"], "proximal_mu is -1"),
            (["run", "--selection", "activity", "--cap", "-0.5"], "cap is -0.5; choose a rate"),
            (["run", "--selection", "activity", "--power", "-1"], "power is -1.0; choose 0"),
            (["run", "--power", "2"], "which --selection uniform does not use"),
            (["run", "--cap", "0.5"], "which --selection uniform does not use"),
            (["run", "--temperature", "2"], "choose --selection softmax"),
            (["run", "--selection", "softmax", "--temperature", "0"], "temperature is 0"),
            (
                ["run", "--strategy", "fedmedian", "--weighting", "equal"],
                "FedMedian ignores weights",
            ),
            (["run", "--setting", "continual", "--rounds", "3"], "choose 5 rounds or more"),
            (["run", "--setting", "continual", "--keep", "half"], "half"),
            (["run", "--devices", "8", "--cohort", "9"], "population has 8 devices; choose 8"),
            (["run", "--devices", "0"], "0"),
            (["run", "--corpus", "nowhere.jsonl"], "nowhere.jsonl"),
            (["run", *SMALL, "--evaluate-every", "0"], "evaluate_every is 0; choose 1 or more"),
            (["run", *SMALL, "--checkpoint-every", "0"], "checkpoint_every is 0; choose 1"),
            (["run", *SMALL, "--workers", "-1"], "workers is -1; choose 0 (inline) or more"),
            (["run", "--columns", "user"], "expected name=column pairs"),
        ],
    )
    def test_bad_values_get_one_sentence(self, capsys, arguments, expected):
        assert expected in sentence(capsys, *arguments)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["run", "--rounds", "many"], "--rounds is 'many'; expected a whole number"),
            (["run", "--selection", "activty"], "'activty' (did you mean 'activity'?); choose one"),
            (["run", "--corpus"], "--corpus has no value"),
            (["run", "stray"], "'stray' is no option"),
            (["experiment", "selektion"], "did you mean 'selection'?"),
            (["experiment"], "name is missing; choose one of selection, price-of-activity"),
            (["experiment", "selection", "--epsilon", "3"], "epsilon is 3.0, and experiment"),
            (["bench", "ledger", "--workers", "2"], "bench ledger trains no devices"),
            (["experiment", "selection", "--by", "cloc"], "did you mean 'clock'?"),
        ],
    )
    def test_what_cannot_be_parsed_is_one_sentence_too(self, capsys, arguments, expected):
        assert expected in sentence(capsys, *arguments)

    def test_an_unknown_corpus_is_named(self, capsys):
        assert "masive" in sentence(capsys, "run", "--corpus", "masive")

    def test_a_folder_that_holds_a_run_is_refused_before_the_corpus_is_read(
        self, capsys, tmp_path, monkeypatch
    ):
        (tmp_path / "config.json").write_text("{}")
        monkeypatch.setattr(experiments.recipe, "population_of", lambda options: 1 / 0)
        said = sentence(capsys, "run", *SMALL, "--out", str(tmp_path))
        assert f"output folder {tmp_path} holds a run already; choose another one" in said

    def test_a_refused_run_leaves_nothing(self, capsys, tmp_path):
        out = tmp_path / "deep" / "run"
        sentence(capsys, "run", "--devices", "8", "--cohort", "9", "--out", str(out))
        assert list(tmp_path.iterdir()) == []

    def test_an_unexpected_error_of_the_system_is_one_sentence(self, capsys, monkeypatch):
        def denied(options):
            raise PermissionError(errno.EACCES, "Permission denied", "/data/secret")

        monkeypatch.setattr(experiments.recipe, "population_of", denied)
        assert sentence(capsys, "run", *SMALL) == "fedsim: /data/secret: Permission denied\n"

    def test_an_interrupt_ends_with_130(self, capsys, monkeypatch):
        def interrupted(options):
            raise KeyboardInterrupt

        monkeypatch.setattr(experiments.recipe, "population_of", interrupted)
        assert main(["run", *SMALL]) == 130
        assert capsys.readouterr().err == "fedsim: interrupted\n"
