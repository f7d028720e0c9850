"""A record can be run again from its own config."""

import pytest

from experiments.options import RunOptions
from experiments.recipe import build, run_recipe
from fedsim import ConfigError, load_run

OPTIONS = RunOptions(
    devices=8, cohort=3, rounds=2, selection="log", strategy="fedadam", workers=0, seed=5
)


def test_a_run_can_be_repeated_from_its_config(tmp_path):
    first = run_recipe(OPTIONS, tmp_path / "run", progress=False)
    recipe = load_run(tmp_path / "run").config["recipe"]
    again = run_recipe(RunOptions(**recipe), None, progress=False)
    assert again.summary["model_sha256"] == first.summary["model_sha256"]
    assert RunOptions(**recipe) == OPTIONS


def test_the_config_holds_resolved_values_beside_the_recipe():
    config = run_recipe(OPTIONS, None, progress=False).config
    assert (config["weighting"], config["recipe"]["weighting"]) == ("inverse-rate", "auto")
    assert (config["setting"], config["selection_label"], config["seed"]) == ("static", "log", 5)


def test_build_gives_what_the_options_say():
    simulation = build(OPTIONS)
    assert simulation.population.devices == 8
    assert (simulation.seed, simulation.workers, simulation.schedule.rounds) == (5, 0, 2)
    assert simulation.strategy.policy.label == "log"


def test_a_bad_option_is_refused_before_the_corpus_is_read(monkeypatch):
    monkeypatch.setattr("experiments.recipe.population_of", lambda options: 1 / 0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        build(RunOptions(batch_size=0))
