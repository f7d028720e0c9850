"""A run on Flower's runtime, in processes of its own, is the run it would be in this process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from same_rounds import assert_same_rounds

import experiments.flower_run
from experiments.command_line import main
from experiments.flower_run import run_on_flower
from experiments.options import RunOptions
from experiments.processes import descendants, running
from experiments.recipe import run_recipe
from experiments.superlink import superlink
from fedsim import ConfigError, load_run

ROOT = Path(__file__).parents[2]
SMALL = ["--devices", "20", "--rounds", "2", "--cohort", "4", "--local-steps", "2"]
SMALL += ["--leakage"]
OPTIONS = RunOptions(devices=20, rounds=2, cohort=4, local_steps=2, leakage=True)
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Flower's simulation needs Ray: pip install 'flwr[simulation]'"
)
FROM_HERE = {**os.environ, "PYTHONPATH": str(ROOT)}


def without_engine(config: dict) -> dict:
    recipe = {key: value for key, value in config["recipe"].items() if key != "engine"}
    return {**config, "recipe": recipe, "engine": None}


def test_without_ray_one_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiments.flower_run, "find_spec", lambda name: None)
    out = tmp_path / "run"
    assert main(["run", "--engine", "flower", *SMALL, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said == (
        "fedsim: --engine flower runs on Ray, which is not installed; "
        "pip install 'flwr[simulation]'\n"
    )
    assert not out.exists()


@needs_ray
def test_two_rounds_on_ray_equal_those_of_the_local_engine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = descendants(os.getpid())
    assert main(["run", "--engine", "flower", *SMALL, "--workers", "1", "--out", "there"]) == 0
    assert set(descendants(os.getpid())) <= set(before)
    assert capsys.readouterr().out.endswith("Record: there\n")
    here = run_recipe(replace(OPTIONS, workers=1), tmp_path / "here")
    there = load_run("there")
    assert_same_rounds(there, here)
    assert without_engine(there.config) == without_engine(here.config)


@needs_ray
@pytest.mark.slow
def test_tensorboard_shows_a_run_on_ray_beside_its_record(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "run"
    words = ["--tracker", "tensorboard", "--out", str(out)]
    assert main(["run", "--engine", "flower", *SMALL, *words]) == 0
    shown = accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    points = [(point.step, point.value) for point in shown.Scalars("train_loss")]
    losses = [(line["round"], pytest.approx(line["train_loss"])) for line in load_run(out).rounds]
    assert points == losses


@needs_ray
@pytest.mark.slow
def test_mlflow_shows_a_run_on_ray_in_a_store_of_the_working_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--engine", "flower", *SMALL, "--tracker", "mlflow", "--out", "run"]) == 0
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    found = client.get_run(json.loads(Path("run/mlflow.json").read_text())["run_id"])
    assert found.info.status == "FINISHED"
    points = client.get_metric_history(found.info.run_id, "train_loss")
    losses = [(line["round"], line["train_loss"]) for line in load_run("run").rounds]
    assert [(point.step, point.value) for point in points] == losses


@needs_ray
def test_a_run_without_a_folder_that_was_stopped_names_none_to_go_on_from(monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments.flower_run, "run_on_flower", stopped)
    assert main(["run", "--engine", "flower", *SMALL]) == 130
    assert capsys.readouterr().err == "fedsim: interrupted\n"


SAID = """\
INFO :      Starting Flower Simulation
OSError: AF_UNIX path length cannot exceed 107 bytes: '/a/very/long/one'
RuntimeError: An error was encountered. Ending simulation.
An unhandled exception occurred when running the simulation
"""


def failing_run(tmp_path, monkeypatch, said: str) -> str:
    """What a user reads of a run that ended early, whatever else `flwr run` said."""

    @contextmanager
    def silent(home, *words, check):
        home.mkdir()
        (home / "superlink.log").write_text("INFO : all well here\n")
        yield {}

    monkeypatch.setattr(experiments.flower_run, "superlink", silent)
    monkeypatch.setattr(
        experiments.flower_run, "flwr_run", lambda a, f, e, file, look: file.write_text(said)
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        run_on_flower(RunOptions(engine="flower"), tmp_path / "run", progress=False)
    return str(error.value)


@needs_ray
def test_a_run_that_failed_says_the_cause_and_where_its_logs_are(tmp_path, monkeypatch):
    said = failing_run(tmp_path, monkeypatch, SAID)
    what, _, kept = said.partition("; its logs are in ")
    assert what == (
        "Flower's runtime ended before the run was finished: "
        "OSError: AF_UNIX path length cannot exceed 107 bytes: '/a/very/long/one'"
    )
    assert sorted(log.name for log in Path(kept).iterdir()) == ["flwr-run.log", "superlink.log"]


@needs_ray
def test_a_refusal_is_passed_on_alone(tmp_path, monkeypatch):
    refusal = "fedsim.errors.ConfigError: cohort is 30; choose 20\n"
    assert failing_run(tmp_path, monkeypatch, refusal + SAID) == "cohort is 30; choose 20"
    assert list(tmp_path.iterdir()) == []


@needs_ray
def test_a_superlink_that_does_not_start_says_why(tmp_path, monkeypatch):
    before = descendants(os.getpid())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        experiments.flower_run,
        "superlink",
        lambda home, *_, check: superlink(home, "--no-such-option", check=check),
    )
    with pytest.raises(ConfigError, match=r"ended as it started, with exit code 2: .*--no-such"):
        run_on_flower(RunOptions(engine="flower"), tmp_path / "run", progress=False)
    assert set(descendants(os.getpid())) <= set(before)


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(
    "signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGHUP)]
)
def test_a_run_that_a_signal_stopped_leaves_no_process_and_goes_on(tmp_path, signals):
    out = tmp_path / "run"
    options = [*SMALL, "--rounds", "60", "--evaluate-every", "60"]
    command = [sys.executable, "-m", "experiments"]
    run = subprocess.Popen(
        [*command, "run", "--engine", "flower", *options, "--out", str(out)],
        env=FROM_HERE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while run.poll() is None and not (out / "rounds.jsonl").exists():
        time.sleep(0.05)
    ids = descendants(run.pid)
    for number in signals:
        os.killpg(run.pid, number)
        time.sleep(0.7)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert said.splitlines()[-1].endswith(f"fedsim resume {out} goes on from there")
    assert ids
    assert running(ids) == []
    done = len((out / "rounds.jsonl").read_text().splitlines())
    assert 0 < done < 60
    assert subprocess.run([*command, "resume", str(out)], env=FROM_HERE).returncode == 0
    there = load_run(out)
    here = run_recipe(RunOptions(**{**there.config["recipe"], "engine": "local"}), None)
    assert_same_rounds(there, here)


@needs_ray
@pytest.mark.slow
def test_what_is_refused_only_once_the_corpus_is_read_is_still_one_sentence(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "run"
    assert main(["run", "--engine", "flower", *SMALL, "--cohort", "21", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said == ("fedsim: cohort is 21, but the population has 20 devices; choose 20 or fewer\n")
    assert not out.exists()
