"""TensorBoard's files hold every round of the record once, however often the run went on."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from stopping import ROUNDS, killed, simulation

from experiments.command_line import main
from fedsim import ConfigError, load_run
from fedsim.tracking import TensorBoard

loader = pytest.importorskip(
    "tensorboard.backend.event_processing.event_file_loader", reason="needs tensorboard"
)


def events(run: Path) -> dict[str, list]:
    """Everything in the event files of a run: name to (step, value), in their order."""
    from tensorboard.util import tensor_util

    found = defaultdict(list)
    for path in sorted((run / "tensorboard").iterdir()):
        for event in loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                held = tensor_util.make_ndarray(value.tensor) if value.HasField("tensor") else None
                found[value.tag].append((event.step, held))
    return found


def assert_as_recorded(path: Path) -> None:
    """Every finite figure of every round, once; nothing else."""
    run, shown = load_run(path), events(path)
    for name in ("train_loss", "seconds", "intent_accuracy", "cohort_size"):
        expected = [(x["round"], x[name]) for x in run.rounds if x[name] is not None]
        steps, values = zip(*shown[name], strict=True)
        assert list(steps) == [step for step, _ in expected]
        assert np.allclose([float(v) for v in values], [value for _, value in expected], rtol=1e-6)
    assert "epsilon_max" not in shown, "no claim, no curve"
    assert len(shown["summary/text_summary"]) == 1


def test_every_round_of_the_record_is_a_point(tmp_path):
    simulation(TensorBoard()).run(tmp_path / "run")
    assert_as_recorded(tmp_path / "run")


def test_a_run_that_was_killed_and_goes_on_has_no_step_twice(tmp_path):
    left = killed(tmp_path / "run", TensorBoard())
    assert [step for step, _ in events(left)["train_loss"]] == [1, 2, 3, 4, 5]
    simulation(TensorBoard()).run(left, resume=True)
    assert_as_recorded(left)


def test_one_that_joins_a_run_that_goes_on_shows_it_from_the_first_round(tmp_path):
    left = killed(tmp_path / "run")
    simulation(TensorBoard()).run(left, resume=True)
    assert len(events(left)["seconds"]) == ROUNDS
    assert_as_recorded(left)


def test_options_are_the_parameters_of_the_run(tmp_path):
    from tensorboard.plugins.hparams import plugin_data_pb2

    out = tmp_path / "run"
    words = ["--devices", "8", "--cohort", "3", "--rounds", "2", "--workers", "0"]
    assert main(["run", *words, "--tracker", "tensorboard", "--out", str(out)]) == 0
    tag = "_hparams_/session_start_info"
    for path in (out / "tensorboard").iterdir():
        for event in loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == tag:
                    data = plugin_data_pb2.HParamsPluginData.FromString(
                        value.metadata.plugin_data.content
                    )
    found = data.session_start_info.hparams
    assert found["cohort"].number_value == 3
    assert found["weighting"].string_value == "examples", "resolved"
    assert json.loads((out / "config.json").read_text())["recipe"]["tracker"] == "tensorboard"


def test_a_run_without_a_record_has_no_place_for_files(capsys):
    with pytest.raises(ConfigError, match="beside a run's record, and this run has none"):
        simulation(TensorBoard()).run()
    assert main(["run", "--tracker", "tensorboard"]) == 2
    assert "go beside a run's record; name a folder with --out" in capsys.readouterr().err
