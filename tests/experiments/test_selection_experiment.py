"""The selection experiment runs the cells it promises, pairs them by seed and resumes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fabricated_folder import ACTIVITY, write_run

from experiments import cells
from experiments.options import RunOptions, policy_of
from experiments.selection import PRESETS, preset_options, selection
from experiments.selection_rows import (
    cohort_of_equal_examples,
    further_rows,
    main_rows,
    usual_steps,
)
from fedsim.errors import ConfigError

PERIODS = {"static": ACTIVITY[None], "continual": np.stack([ACTIVITY] * 4)}
OPTIONS = RunOptions(corpus="home", rounds=4, periods=4, cohort=2)


@pytest.fixture
def executed(monkeypatch):
    """The cells that were run, in order."""
    found = []

    def note(cell, path):
        found.append(cell)
        write_run(cell, path)

    monkeypatch.setattr(cells, "execute", note)
    return found


def test_quick_runs_two_policies_in_two_settings_over_three_seeds(tmp_path, executed):
    table = selection(OPTIONS, "quick", out=tmp_path, processes=1)
    assert len(executed) == 12
    assert [(row["setting"], row["selection"]) for row in table.rows] == [
        ("static", "uniform"),
        ("static", "activity"),
        ("continual", "uniform"),
        ("continual", "activity"),
    ]
    assert all(row["seeds"] == 3 for row in table.rows)
    assert (tmp_path / "runs" / "continual-activity-auto-seed2" / "config.json").is_file()


def test_paper_runs_every_policy_the_crossed_weightings_and_the_further_rows(tmp_path, executed):
    table = selection(OPTIONS, "paper", seeds=1, out=tmp_path, processes=1)
    static = [
        (row["selection"], row["weighting"]) for row in table.rows if row["setting"] == "static"
    ]
    policies = PRESETS["paper"].policies
    plain = [(p, w) for p, w in static if "," not in p and p != "central"]
    assert {p for p, _ in plain} == set(policies)
    assert {w for p, w in plain if p == "activity"} == {"equal", "examples", "inverse-rate"}
    assert {w for p, w in plain if p == "uniform"} == {"examples", "equal"}
    steps = [p for p, _ in static if "local step" in p]
    assert [p.split(",")[0] for p in steps] == list(policies)
    assert ("central", None) in static
    assert sum("cohort" in p for p, _ in static) == 1
    assert Counter(cell.central for cell in executed)[True] == 1


def test_a_second_call_runs_nothing_and_gives_the_same_table(tmp_path, executed):
    first = selection(OPTIONS, "paper", seeds=2, out=tmp_path, processes=1)
    count = len(executed)
    again = selection(OPTIONS, "paper", seeds=2, out=tmp_path, processes=1)
    assert len(executed) == count
    assert again.markdown() == first.markdown()
    assert again.csv() == first.csv()


def test_more_seeds_add_runs_and_repeat_none(tmp_path, executed):
    selection(OPTIONS, "quick", seeds=1, out=tmp_path, processes=1)
    selection(OPTIONS, "quick", seeds=2, out=tmp_path, processes=1)
    assert len({cell.name for cell in executed}) == len(executed) == 8


def test_cells_differ_from_the_options_in_what_they_vary_alone(tmp_path, executed):
    selection(replace(OPTIONS, seed=5), "quick", seeds=2, out=tmp_path, processes=1)
    for cell in executed:
        same = replace(
            cell.options, setting=OPTIONS.setting, selection=OPTIONS.selection, seed=OPTIONS.seed,
            weighting=OPTIONS.weighting, checkpoint_every=OPTIONS.checkpoint_every,
        )  # fmt: skip
        assert same == OPTIONS
    assert {cell.options.seed for cell in executed} == {5, 6}


def test_names_of_runs_are_unique():
    policies = PRESETS["paper"].policies
    rows = main_rows(OPTIONS, policies, ("uniform", "activity"))
    rows += further_rows(OPTIONS, policies, PERIODS)
    names = [row.cell(0).name for row in rows]
    assert len(set(names)) == len(names)


def test_enlarged_uniform_expects_the_examples_of_activity():
    activity = np.arange(1, 400)[None]
    options = replace(OPTIONS, cohort=20)
    cohort = cohort_of_equal_examples(options, activity)

    def expected(**changes):
        rates = policy_of(replace(options, **changes)).rates(activity[0])
        return float((rates * activity[0]).sum())

    assert cohort > 20
    uniform = expected(selection="uniform", cohort=cohort)
    assert uniform == pytest.approx(expected(selection="activity"), rel=0.03)


def test_enlarged_uniform_expects_the_examples_that_fixed_local_steps_serve():
    activity = np.arange(1, 400)[None]
    options = replace(OPTIONS, cohort=20, batch_size=16, local_steps=1)
    cohort = cohort_of_equal_examples(options, activity)

    def expected(**changes):
        rates = policy_of(replace(options, **changes)).rates(activity[0])
        return float((rates * np.minimum(activity[0], 16)).sum())

    uniform = expected(selection="uniform", cohort=cohort)
    assert uniform == pytest.approx(expected(selection="activity"), rel=0.03)


def test_enlarged_cohort_never_exceeds_the_devices_that_hold_data():
    assert cohort_of_equal_examples(replace(OPTIONS, cohort=4), ACTIVITY[None]) <= 8
    some = ACTIVITY.copy()
    some[:5] = 0
    both = np.stack([ACTIVITY, some])
    assert cohort_of_equal_examples(replace(OPTIONS, cohort=3), both) <= 3


def test_equal_local_steps_are_those_of_an_average_device():
    # 1, 1, 1, 1, 3, 4, 7 and 13 batches of 16.
    assert usual_steps(replace(OPTIONS, batch_size=16, local_epochs=1), ACTIVITY[None]) == 4
    assert usual_steps(replace(OPTIONS, batch_size=16, local_epochs=2), ACTIVITY[None]) == 8
    assert usual_steps(replace(OPTIONS, batch_size=16), np.array([[0, 1]])) == 1


def test_what_the_caller_sets_wins_over_the_preset():
    assert preset_options("quick").corpus == "home"
    assert preset_options("quick", {"corpus": "massive"}).corpus == "massive"
    assert preset_options("quick", {"corpus": "massive"}).rounds == preset_options("quick").rounds


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_another_corpus_comes_with_its_own_number_of_devices(preset):
    assert preset_options(preset, {"corpus": "massive"}).devices is None
    assert preset_options(preset, {"corpus": "snips", "devices": 50}).devices == 50
    assert preset_options("quick", {"corpus": "home"}) == preset_options("quick")
    assert preset_options("quick").devices == 300


def test_the_paper_preset_keeps_the_options_of_runs_that_were_made_with_it():
    options = preset_options("paper", {"corpus": "massive"})
    assert options == RunOptions(corpus="massive", rounds=80, evaluate_every=4)
    size = PRESETS["paper"]
    assert (size.seeds, size.crossed, size.further) == (5, ("uniform", "activity"), True)


def test_rounds_that_no_schedule_fits_are_refused_before_anything_runs(tmp_path, executed):
    with pytest.raises(ConfigError, match="rounds is 2, but there are 4 periods"):
        selection(replace(OPTIONS, rounds=2), "quick", out=tmp_path / "out", processes=1)
    assert not executed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "slow"}, "preset is 'slow'; expected one of quick, paper"),
        ({"seeds": 0}, "seeds is 0; choose 1 or more"),
        ({"processes": 0}, "processes is 0; choose 1 or more"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(tmp_path, executed, wrong, message):
    with pytest.raises(ConfigError, match=message):
        selection(**({"options": OPTIONS, "out": tmp_path} | wrong))
    assert not executed
    assert not list(tmp_path.iterdir())
