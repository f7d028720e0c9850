"""Runs that differ in the seed alone are one row, named after what sets it apart."""

from copy import deepcopy
from dataclasses import replace

import pytest

from fedsim import ConfigError
from fedsim.report.grouping import grouped, runs_in, strategy_of


def changed(run, **options):
    config = deepcopy(run.config) | options
    return replace(run, config=config)


def test_seeds_are_one_group_and_options_that_differ_name_the_others(private_run):
    runs = [
        private_run,
        changed(private_run, dp="none"),
        changed(private_run, seed=1),
        changed(private_run, dp="none", seed=1, workers=7, evaluate_every=3),
    ]
    groups = grouped(runs)
    assert [group.label for group in groups] == ["activity, dp device", "activity, dp none"]
    assert [[run.config["seed"] for run in group.runs] for group in groups] == [[0, 1], [0, 1]]


def test_options_of_privacy_name_no_run_without_it(private_run):
    runs = [
        changed(private_run, noise_multiplier=0.5),
        changed(private_run, noise_multiplier=1.0),
        changed(private_run, dp="none", noise_multiplier=None),
    ]
    assert [group.label for group in grouped(runs)] == [
        "activity, dp device, noise multiplier 0.5",
        "activity, dp device, noise multiplier 1",
        "activity, dp none",
    ]


def test_what_all_private_runs_have_in_common_names_none_of_them(private_run):
    runs = [
        changed(private_run, clip_norm=0.5),
        changed(private_run, clip_norm=0.5, selection_label="uniform"),
        changed(private_run, dp="none", clip_norm=1.0),
        changed(private_run, dp="none", clip_norm=0.5, seed=1),
    ]
    groups = grouped(runs)
    assert [group.label for group in groups] == [
        "activity, dp device",
        "uniform, dp device",
        "activity, dp none",
    ]
    assert len(groups[2].runs) == 2, "a clip norm that nobody clips to sets no seed apart"


def test_groups_keep_the_order_in_which_they_were_named(private_run):
    runs = [changed(private_run, selection_label=name) for name in ("top", "activity", "sqrt")]
    assert [group.label for group in grouped(runs)] == ["top", "activity", "sqrt"]


def test_a_lone_group_is_named_after_its_policy(private_run):
    (group,) = grouped([private_run])
    assert group.label == "activity"


def test_scripts_are_told_apart_by_their_objects(private_run):
    simulation = deepcopy(private_run.config["simulation"])
    simulation["client"]["batch_size"] = 4
    runs = [
        changed(private_run, recipe=None),
        changed(private_run, recipe=None, simulation=simulation),
    ]
    assert "client batch size 16" in grouped(runs)[0].label
    assert "client batch size 4" in grouped(runs)[1].label


def test_the_same_run_twice_is_refused(private_run):
    with pytest.raises(ConfigError, match="have the same options and seed 0; name one of them"):
        grouped([private_run, changed(private_run)])


def test_a_strategy_is_named_from_the_outside_in(private_run):
    assert strategy_of(private_run) == "Selective(PrivateAggregation(FedAvg))"


def test_folders_are_runs_or_hold_them_each_once(private_run, plain_run):
    names = [private_run.path, private_run.path.parent, plain_run.path]
    found = runs_in(names)
    assert [run.path for run in found] == [private_run.path.resolve(), plain_run.path.resolve()]
    assert [run.path for run in runs_in([private_run.path.parent])] == [private_run.path.resolve()]


def test_a_folder_without_finished_runs_is_refused(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no finished run"):
        runs_in([tmp_path])
