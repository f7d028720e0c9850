"""MLflow's run holds every round of the record once, however often the run went on."""

import json
import math

import pytest
from stopping import ROUNDS, killed, simulation

from experiments.command_line import main
from fedsim import load_run
from fedsim.tracking import MLflow

mlflow = pytest.importorskip("mlflow", reason="needs mlflow or mlflow-skinny")
pytest.importorskip("sqlalchemy", reason="needs sqlalchemy, for a store of MLflow's in a file")

# Making a store takes longer than all else here.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store in a file of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/store.db"


@pytest.fixture
def client(uri):
    return mlflow.MlflowClient(tracking_uri=uri)


def run_of(client, path):
    return client.get_run(json.loads((path / "mlflow.json").read_text())["run_id"])


def assert_as_recorded(client, path):
    """Every finite figure of every round, once; what is infinite is said in words."""
    run, shown = load_run(path), run_of(client, path)
    for name in ("train_loss", "seconds", "intent_accuracy", "cohort_size"):
        points = client.get_metric_history(shown.info.run_id, name)
        expected = [(x["round"], x[name]) for x in run.rounds if x[name] is not None]
        assert [p.step for p in points] == [step for step, _ in expected]
        if name != "seconds":
            assert [p.value for p in points] == [value for _, value in expected]
    assert "epsilon_max" not in shown.data.metrics
    assert shown.data.tags["epsilon_max"] == "inf"
    assert all(math.isfinite(value) for value in shown.data.metrics.values())
    assert shown.data.metrics["summary/rounds"] == ROUNDS
    assert shown.data.tags["model_sha256"] == run.summary["model_sha256"]
    assert shown.info.status == "FINISHED"


def test_every_round_of_the_record_is_a_step(tmp_path, uri, client):
    simulation(MLflow(uri=uri, experiment="whole")).run(tmp_path / "run a")
    assert_as_recorded(client, tmp_path / "run a")
    shown = run_of(client, tmp_path / "run a")
    assert shown.info.run_name == "run a"
    assert shown.info.experiment_id == client.get_experiment_by_name("whole").experiment_id
    assert shown.data.params["client.local_steps"] == "1"


def test_a_run_that_was_killed_and_goes_on_has_no_step_twice(tmp_path, uri, client):
    tracker = MLflow(uri=uri)
    left = killed(tmp_path / "run", tracker)
    begun = run_of(client, left)
    assert begun.info.status == "KILLED"
    simulation(tracker).run(left, resume=True)
    assert run_of(client, left).info.run_id == begun.info.run_id
    assert_as_recorded(client, left)


def test_a_run_that_failed_is_said_to_have(tmp_path, uri, client):
    left = killed(tmp_path / "run", MLflow(uri=uri), error=RuntimeError)
    assert run_of(client, left).info.status == "FAILED"


def test_another_store_begins_with_the_rounds_that_the_record_has(tmp_path, uri, client):
    left = killed(tmp_path / "run")
    (left / "mlflow.json").write_text('{"run_id": "0123456789abcdef0123456789abcdef"}')
    simulation(MLflow(uri=uri)).run(left, resume=True)
    assert_as_recorded(client, left)


def test_a_half_written_round_is_filled_up(tmp_path, uri, client):
    left = killed(tmp_path / "run", MLflow(uri=uri))
    run_id = run_of(client, left).info.run_id
    whole = simulation().run()
    client.log_metric(run_id, "train_loss", whole.rounds[-1]["train_loss"], step=ROUNDS)
    simulation(MLflow(uri=uri)).run(left, resume=True)
    assert_as_recorded(client, left)


def test_the_command_shows_its_options_where_the_environment_says(
    tmp_path, uri, client, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    out = tmp_path / "run"
    words = ["--devices", "8", "--cohort", "3", "--rounds", "2", "--workers", "0"]
    assert main(["run", *words, "--tracker", "mlflow", "--out", str(out)]) == 0
    shown = run_of(client, out)
    assert shown.data.params["cohort"] == "3"
    assert shown.data.params["weighting"] == "examples", "resolved"
    assert shown.info.experiment_id == client.get_experiment_by_name("mine").experiment_id
