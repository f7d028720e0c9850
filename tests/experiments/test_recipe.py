"""A record can be run again from its own config."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.options import RunOptions
from experiments.recipe import build, resume, run_recipe
from fedsim import ConfigError, load_run
from fedsim.record.checkpoint import Checkpoints

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


def test_leakage_is_measured_by_a_probe_on_a_population_in_which_coins_fell():
    simulation = build(replace(OPTIONS, leakage=True, leakage_every=3))
    (probe,) = simulation.probes
    assert probe.every == 3
    assert np.array_equal(simulation.population.null, probe.panel.excluded(probe.population))
    assert probe.population.null is None
    assert not build(OPTIONS).probes


@pytest.mark.parametrize("dp", ["none", "device", "example", "both"])
def test_every_line_of_a_run_with_leakage_carries_epsilon_and_leakage(dp):
    run = run_recipe(replace(OPTIONS, leakage=True, dp=dp, strategy="fedavg"), None, progress=False)
    keys = ("mia_auc", "mia_auc_low", "mia_auc_high", "mia_tpr_at_1pct", "epsilon_audit_low")
    keys += ("delta_audit", "epsilon_claim_at_delta_audit", "epsilon_max")
    assert all(line[key] is not None for line in run.rounds for key in keys)
    claims = [line["epsilon_claim_at_delta_audit"] for line in run.rounds]
    # The audit's delta is far smaller than the line's, so its claim is larger.
    if dp == "none":
        assert claims == [np.inf, np.inf]
    else:
        unit = "epsilon_max" if dp == "device" else "example_epsilon_max"
        assert run.rounds[-1][unit] < claims[-1] < np.inf and claims == sorted(claims)
    assert run.start["probes"]["Leakage"]["members"] == len(run.arrays("panel")["included"])


def test_a_run_with_leakage_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    options = replace(OPTIONS, leakage=True, dp="device", strategy="fedavg", rounds=3)
    whole = run_recipe(options, tmp_path / "whole", progress=False)
    keep = Checkpoints.keep

    def stop(checkpoints, round, *rest, **more):
        keep(checkpoints, round, *rest, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(options, tmp_path / "run", progress=False)
    again = resume(tmp_path / "run", progress=False)
    timeless = [[line | {"seconds": 0} for line in run.rounds] for run in (again, whole)]
    assert timeless[0] == timeless[1]
    for stem in ("panel", "scores"):
        found, wanted = (run.path / f"{stem}.npz" for run in (again, whole))
        assert found.read_bytes() == wanted.read_bytes()
