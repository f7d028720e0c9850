"""A run config of Flower's says what the options of `fedsim run` say."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments.flower_app import options_of
from experiments.flower_run import absolute, run_config, write_app
from experiments.options import ENGINE, RunOptions
from fedsim import ConfigError

ROOT = Path(__file__).parents[2]
FLOWER = RunOptions(engine="flower")


def test_the_projects_own_app_lists_every_option_with_its_default():
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    names = {name.replace("_", "-") for name in asdict(FLOWER)} - ENGINE
    assert app["config"].keys() == names | {"out"}
    assert options_of(app["config"]) == (FLOWER, None)


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(),
        RunOptions(devices=30, keep='win"dow:2'.replace('"', ""), learning_rate=1e-7, power=1),
        RunOptions(corpus="/data/ä \\ö.jsonl", columns="user=a,text=b", local_steps=3),
    ],
)
def test_an_app_folder_says_what_the_options_say(tmp_path, options):
    folder = write_app(tmp_path / "app", run_config(options, tmp_path / "run"))
    config = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    there, out = options_of(config["tool"]["flwr"]["app"]["config"])
    assert asdict(there) == {**asdict(options), "engine": "flower"}
    assert out == tmp_path / "run"


def test_a_number_is_what_the_option_wants_whatever_toml_wrote():
    options, _ = options_of({"learning-rate": 1, "corpus": "home"})
    assert isinstance(options.learning_rate, float)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"cohrt": 3}, r"unknown run-config key 'cohrt' \(did you mean 'cohort'\?\)"),
        ({"local_steps": 3}, r"'local_steps' \(did you mean 'local-steps'\?\)"),
        ({"engine": "local"}, "unknown run-config key 'engine'"),
        ({"rounds": 2.5}, "rounds is '2.5'; expected a whole number"),
        ({"draw": "fixd"}, r"draw is 'fixd' \(did you mean 'fixed'\?\)"),
        ({"cohort": 0}, "cohort is 0; choose 1 or more"),
        ({"faults": True}, "faults is True; expected a value as `fedsim run` takes it, no truth"),
        ({"rounds": True}, "rounds is True; expected a value as"),
        ({"corpus": False}, "corpus is False; expected a value as"),
        ({"workers": 0}, "workers is 0, which trains inline, and --engine flower trains in"),
        ({"out": "runs/a"}, "out is 'runs/a', which .* write an absolute path"),
        ({"data": "data"}, "data is 'data', which .* write an absolute path"),
    ],
)
def test_what_no_run_can_be_made_of_is_refused_in_one_sentence(config, said):
    with pytest.raises(ConfigError, match=said):
        options_of(config)


def test_files_named_from_here_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.jsonl", "labels.json"):
        Path(name).touch()
    options = absolute(RunOptions(corpus="mine.jsonl", labels="labels.json", data="."))
    assert options.corpus == str(tmp_path / "mine.jsonl")
    assert options.labels == str(tmp_path / "labels.json")
    assert options.data == str(tmp_path)


def test_names_of_corpora_are_no_paths():
    assert absolute(FLOWER) == FLOWER
