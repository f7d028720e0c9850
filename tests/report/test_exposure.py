"""What the leakage experiment's notes say follows from its rows, whichever way they fall."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fedsim.leakage.panel import GROUPS
from fedsim.leakage.success import auc_interval
from fedsim.report.curves import Group
from fedsim.report.exposure import EXAMPLE, NONE, Exposed, exposure_table, mean_of
from fedsim.report.exposure_notes import GONE, LEFT, NOTHING, OPEN, as_accurate, outcome, verdict

MEMBER = np.arange(400) % 2 == 0


def run(mu, epsilon=np.inf, accuracies=(0.2, 0.5, 0.8), refuted=False, seed=0):
    """A finished run whose attack has Gaussian scores, members' higher by mu at the end."""
    losses = -(np.random.default_rng(0).standard_normal(400) + mu * MEMBER)
    lines = [
        {
            "round": k + 1, "intent_accuracy": accuracy, "mia_auc": 0.5 + 0.1 * k,
            "mia_auc_low": 0.45 + 0.1 * k, "mia_auc_high": 0.55 + 0.1 * k,
            "mia_tpr_at_1pct": 0.1, "delta": 1e-5, "delta_audit": 1e-9,
            "example_epsilon_max": epsilon * (k + 1) / 3, "epsilon_max": np.inf,
            "epsilon_audit_low": 2.0 if refuted else 0.0, "epsilon_claim_at_delta_audit": epsilon,
            "cohort_size": 2,
            "figures": {
                "leakage/members": 200, "leakage/non_members": 200,
                "leakage/tpr_at_1pct_coarse": True, "leakage/bound_exceeds_claim": refuted,
            }
            | {
                f"leakage/auc{end}_{group}": value
                for group, lift in (("light", 0.0), ("middle", 0.1), ("heavy", 0.2))
                for end, value in (("", 0.5 + lift), ("_low", 0.45 + lift), ("_high", 0.55 + lift))
            }
            | {f"leakage/{of}_{g}": 66 for of in ("members", "non_members") for g in GROUPS},
        }
        for k, accuracy in enumerate(accuracies)
    ]  # fmt: skip
    files = {
        "panel": {"included": MEMBER},
        "scores": {"losses": losses[None], "untrained": np.zeros(400)},
    }
    config = {
        "corpus": "home", "rounds": 3, "cohort": 2, "strategy": "fedavg", "model": "bilstm",
        "local_epochs": 2, "batch_size": 16, "seed": seed,
    }  # fmt: skip
    return SimpleNamespace(
        config=config,
        start={"assumptions": [], "probes": {"Leakage": {"members": 400, "notes": ["a panel"]}}},
        rounds=lines,
        devices={"activity": np.ones((1, 9))},
        arrays=files.__getitem__,
    )


def row(mu, noise=None, setting="static", **settings):
    group = Group(
        setting=setting, selection="uniform", weighting="equal", runs=[run(mu, **settings)]
    )
    return Exposed(group=group, privacy=NONE if noise is None else EXAMPLE, noise=noise)


@pytest.mark.parametrize(
    ("plain", "private", "said"), [(3, 0, GONE), (3, 3, LEFT), (1, 0.48, OPEN), (0, 0, NOTHING)]
)
def test_verdict_is_about_most_of_what_leaks(plain, private, said):
    own = [row(plain), row(plain, 0.0), row(private, 0.2, epsilon=90.0)]
    assert verdict(own, 1) == said


def test_the_loosest_finite_epsilon_is_judged():
    """The tight one leaks nothing, the loose one all; clipping alone claims nothing."""
    own = [row(3), row(0, 0.0), row(0, 1.0, epsilon=2.0), row(3, 0.2, epsilon=90.0)]
    assert verdict(own, 1) == LEFT
    text = " ".join(outcome(own))
    assert "leaves most of it in 1 (static, uniform)" in text and "removes most of it in 0" in text
    assert (
        "claimed epsilon of 90 (sigma 0.2)" in text
        and "Of the others clipping alone leaves" in text
    )


@pytest.mark.parametrize(
    ("private", "said"),
    [(0.48, "some of it is gone, and whether most of it is cannot"), (0.9, "left")],
)
def test_where_most_may_be_gone_the_text_says_whether_anything_is(private, said):
    assert said in outcome([row(1), row(private, 0.2, epsilon=90.0)])[1]


def test_settings_are_counted_apart():
    own = [row(3), row(0, 0.2, epsilon=90.0)]
    later = [row(0, setting="continual"), row(0, 0.2, setting="continual", epsilon=90.0)]
    first, here, there, heavy = outcome([*own, *later])
    assert "of 2 settings, 1 leak measurably" in first
    assert "removes most of it in 1 (static, uniform)" in first
    assert "most of the leakage is gone" in here
    assert "Nothing leaks measurably without privacy" in there
    assert "heavy devices are exposed more (static, uniform: 0.700 against 0.500" in heavy


def test_heavy_devices_are_compared_with_light_ones_as_often_as_there_are_settings():
    """0.700 against 0.500 with 66 members and others each is no chance once, but may be in 40."""
    once = outcome([row(3)])[-1]
    often = outcome([row(3, setting=f"setting {k}") for k in range(40)])[-1]
    assert once.startswith("Without privacy heavy devices are exposed more (static, uniform: 0.700")
    assert "exposed not measurably more or less (setting 0" in often
    assert "95 % intervals for all 40 settings together" in often
    (low, _), (_, high) = auc_interval(0.7, 66, 66), auc_interval(0.5, 66, 66)
    down = np.hypot(0.7 - low, high - 0.5)
    assert f"difference +0.200 [{0.2 - down:+.3f}" in once


def costly(*pairs):
    """A row whose final accuracies are the first of each pair, and on all data the second."""
    own, whole = (
        [run(3, accuracies=(0.1, pair[side]), seed=seed) for seed, pair in enumerate(pairs)]
        for side in (0, 1)
    )
    group = Group(setting="static", selection="uniform", weighting="equal", runs=own)
    return Exposed(group=group, privacy=NONE, whole=replace(group, runs=whole[::-1]))


def test_the_table_says_what_accuracy_the_panel_cost():
    table = exposure_table([costly((0.72, 0.75)), row(3, 0.2, epsilon=9.0)])
    assert [
        r["accuracy_without_panel"] and r["accuracy_without_panel"].mean for r in table.rows
    ] == [
        0.75,
        None,
    ]
    said = next(note for note in table.notes if "panel cost" in note)
    assert "(one seed, so that chance is part of it)" in said
    assert "static, uniform: 72.0 % with the panel, 75.0 % on all data, -3.0 points." in said


def test_the_cost_of_panels_is_paired_by_seed():
    table = exposure_table([costly((0.60, 0.62), (0.80, 0.81), (0.70, 0.73))])
    said = next(note for note in table.notes if "panel cost" in note)
    assert "(seeds paired)" in said and "-2.0 points [-4.5, +0.5]" in said


def test_without_runs_on_all_data_nothing_is_said_of_what_the_panel_cost():
    assert not [note for note in exposure_table([row(3)]).notes if "panel cost" in note]


def test_what_is_said_of_a_claim_names_rows_that_clip_alone_apart():
    own = [row(3), row(3, 0.0), row(0, 0.2, epsilon=9.0)]
    for one, note in zip(own, ("no claim", "no claim", "a claim"), strict=True):
        one.group.runs[0].start["probes"]["Leakage"]["notes"] = [note]
    said = exposure_table(own).notes
    assert "none and clipping alone: no claim." in said and "DP-SGD: a claim." in said


def test_a_last_model_much_worse_than_an_earlier_one_is_named():
    own = [row(3, accuracies=(0.2, 0.8, 0.5)), row(0, 0.2, epsilon=9.0)]
    assert "at 50.0 % intent accuracy (80.0 % at best; what is attacked here" in outcome(own)[1]
    assert "at best" not in outcome([row(3, accuracies=(0.2, 0.8, 0.78)), own[1]])[1]


def test_stopping_as_early_is_compared_at_the_same_accuracy():
    plain, private = row(3), row(0, 0.2, epsilon=9.0, accuracies=(0.1, 0.2, 0.4))
    assert as_accurate(plain, private) == (2, pytest.approx(0.6))
    assert as_accurate(private, plain) is None


def test_a_refuted_claim_comes_first():
    table = exposure_table([row(3), row(3, 0.2, epsilon=1.0, refuted=True)])
    assert table.notes[0].startswith("CLAIM REFUTED, static, uniform selection, DP-SGD, sigma 0.2:")
    assert [bool(r["refuted"]) for r in table.rows] == [False, True]


def test_panels_of_several_seeds_halve_the_interval():
    four = mean_of([(0.6, 0.5, 0.7)] * 4)
    assert (four.mean, four.low, four.high) == pytest.approx((0.6, 0.55, 0.65))
    assert mean_of([(0.6, 0.5, 0.7), (None, None, None)]) is None
