"""A run read back from its folder is the run that was in memory."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from fedsim import ConfigError, Continual, Population, Simulation, compare, load_run
from fedsim.models import BiLSTMTagger
from fedsim.record import is_finished
from fedsim.record.encoding import decoded, encoded
from strategies import ActivitySelection, Selective


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    people = Population.load("home", devices=8)
    return Simulation(
        population=people,
        model=BiLSTMTagger.sized_for(people, embedding=4, hidden=4),
        client=NLUClient(),
        strategy=Selective(FedAvg(), ActivitySelection(cohort=3), draw="fixed"),
        schedule=Continual(periods=2, rounds=3),
        workers=0,
        evaluate_every=2,
        probes=[lambda finished: {"odd/down": float("-inf"), "odd/up": float("inf")}],
    ).run(tmp_path_factory.mktemp("record") / "run")


def test_reading_back_gives_the_run_in_memory(finished):
    again = load_run(finished.path)
    for field in ("path", "config", "start", "rounds", "summary"):
        assert getattr(again, field) == getattr(finished, field), field
    for field in ("cohorts", "devices"):
        ours, theirs = getattr(again, field), getattr(finished, field)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert again.model.keys() == finished.model.keys()
    assert all(torch.equal(again.model[name], p) for name, p in finished.model.items())


def test_infinity_survives_the_round_trip_below_figures_too(finished):
    line = load_run(finished.path).rounds[0]
    assert line["epsilon_max"] == float("inf")
    assert line["figures"]["odd/down"] == float("-inf")


def test_decoding_undoes_encoding_and_leaves_other_text_alone():
    figures = {"a": float("inf"), "b": None, "unit": "none", "nested": {"p/x": -1.5}}
    assert decoded(encoded(figures)) == figures
    assert np.isnan(decoded(encoded({"a": float("nan")}))["a"])


def test_a_run_prints_its_measured_rounds_and_compares_with_others(finished):
    again = load_run(finished.path)
    assert again.table().markdown() == finished.table().markdown()
    assert [row["seed"] for row in compare([finished, again]).rows] == [0, 0]


def test_a_run_cannot_be_changed(finished):
    with pytest.raises(dataclasses.FrozenInstanceError):
        finished.summary = {}


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert not is_finished(tmp_path)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="holds no finished run"):
            load_run(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "start.json", "summary.json", "rounds.jsonl", "cohorts.npz"]
)
@pytest.mark.parametrize("content", [b"{broken", b"\xff\xfe\x00binary", None])
def test_a_damaged_or_missing_file_is_named(finished, tmp_path, name, content):
    folder = tmp_path / "copy"
    shutil.copytree(finished.path, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        load_run(folder)


def test_a_damaged_line_is_named(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished.path, folder)
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "per')
    with pytest.raises(ConfigError, match=r"rounds\.jsonl, line 4 cannot be read: it is damaged"):
        load_run(folder)
