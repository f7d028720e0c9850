"""The table of a comparison: what is compared with what, and what it says came out."""

from dataclasses import replace

import numpy as np
import pytest
from fabricated import group

from fedsim.report.comparison import comparison_table
from fedsim.report.curves import CENTRAL
from fedsim.report.effects import baseline, error_change, reaching
from fedsim.report.outcome import notes, outcome
from fedsim.report.statistics import AtLeast, estimate

BOTH = ("static", "continual")


def four(**gains):
    """Uniform and activity, static and continual; what is added to activity's accuracy."""
    return [
        group(policy, setting, gain=gains.get(setting, 0.0) if policy == "activity" else 0.0)
        for setting in BOTH
        for policy in ("uniform", "activity")
    ]


def central():
    return replace(group("top"), selection=CENTRAL, weighting="")


def test_rows_are_named_by_setting_policy_and_resolved_weighting():
    rows = comparison_table(four()).rows
    assert [(r["setting"], r["selection"], r["weighting"]) for r in rows] == [
        ("static", "uniform", "examples"),
        ("static", "activity", "equal"),
        ("continual", "uniform", "examples"),
        ("continual", "activity", "equal"),
    ]


def test_error_is_compared_with_uniform_of_the_same_setting_and_seed():
    groups = four()
    row = comparison_table(groups).rows[3]
    slow = [
        (1 - ours.rounds[-1]["intent_accuracy"]) / (1 - theirs.rounds[-1]["intent_accuracy"]) - 1
        for ours, theirs in zip(groups[3].runs, groups[2].runs, strict=True)
    ]
    assert row["error_change"] == estimate(slow)
    assert comparison_table(groups).rows[2].get("error_change") is None


def test_interval_is_corrected_for_the_policies_compared():
    groups = [group(policy) for policy in ("uniform", "activity", "log", "sqrt")]
    table = comparison_table([*groups, central()])
    assert table.rows[1]["error_change"] == error_change(groups[1], groups[0], 3)
    assert any("corrected for 3 policies" in note for note in table.notes)


def test_equal_local_steps_are_compared_with_uniform_at_equal_local_steps():
    plain = group("uniform")
    steps = [
        replace(group(policy, config={"local_steps": 2}), variant="2 local steps")
        for policy in ("uniform", "activity")
    ]
    enlarged = replace(group("uniform", config={"cohort": 15}), variant="cohort 15")
    groups = [plain, group("activity"), enlarged, *steps]
    assert baseline(groups, steps[1]) is steps[0]
    assert baseline(groups, enlarged) is plain
    assert baseline(groups, groups[1]) is plain


def test_target_is_nine_tenths_of_static_uniforms_final_accuracy():
    groups = four()
    final = np.mean([one.rounds[-1]["intent_accuracy"] for one in groups[0].runs])
    rounds = []
    for one in groups[0].runs:
        reached = [
            line["round"] for line in one.rounds if (line["intent_accuracy"] or 0) >= 0.9 * final
        ]
        rounds.append(reached[0])
    row = comparison_table(groups).rows[0]
    assert row["rounds_to_target"] == np.median(rounds)
    assert row["examples_to_target"] == 100 * np.median(rounds)


def test_a_target_not_reached_is_shown_as_a_bound():
    assert reaching(group(rounds=40), "rounds", 0.99) == AtLeast(40.0)
    slow = group("uniform", "continual", gain=-0.3)
    text = comparison_table([group("uniform"), slow]).markdown()
    assert ">40" in text


def test_at_equal_examples_policies_that_learn_from_examples_alone_are_equal():
    row = comparison_table(four()).rows[1]
    # The fabricated accuracy depends on examples; what is left is noise and interpolation.
    assert row["error_change"].high < -0.25
    assert abs(row["error_change_equal_examples"].mean) < 0.05


def test_equal_examples_are_not_claimed_in_the_continual_setting():
    assert comparison_table(four()).rows[3]["error_change_equal_examples"] is None


def test_columns_nobody_filled_are_left_out():
    keys = {column.key for column in comparison_table([group("uniform")]).columns}
    assert "forgetting" not in keys
    assert "error_change" not in keys
    assert "intent_accuracy" in keys


@pytest.mark.parametrize(
    ("static", "continual", "said"),
    [
        (-0.05, 0.02, "is borne out"),
        (-0.4, -0.4, "is not borne out"),
        (0.0, -0.4, "the first half holds in the static setting alone, the second is not shown"),
    ],
)
def test_outcome_is_stated_whichever_way_it_falls(static, continual, said):
    text = outcome(four(static=static, continual=continual), 1)
    assert text.endswith(f"{said}.")


def test_outcome_names_a_worse_policy_worse():
    assert "raises the intent error by" in outcome(four(static=-0.4, continual=-0.4), 1)


def test_outcome_of_equal_policies_is_no_measurable_change():
    groups = [
        replace(group("uniform", setting), selection=policy)
        for setting in BOTH
        for policy in ("uniform", "activity")
    ]
    # The same runs twice: a change of exactly nothing.
    text = outcome(groups, 1)
    assert "does not measurably change the intent error (+0.0 % [+0.0, +0.0])" in text
    assert "is not borne out" in text


def test_one_seed_claims_nothing():
    groups = [group(p, s, seeds=1) for s in BOTH for p in ("uniform", "activity")]
    assert outcome(groups, 1).endswith("One seed says nothing about chance.")
    assert "±" not in comparison_table(groups).markdown().split("\n- ")[0]


def test_enlarged_uniform_takes_the_amount_of_data_out():
    enlarged = [
        replace(group("activity", s, config={"cohort": 15}), selection="uniform",
                variant="cohort 15")
        for s in BOTH
    ]  # fmt: skip
    text = notes([*four(), *enlarged], None, 1)[1]
    assert "2.0 times (static)" in text
    assert "against uniform with cohort 15, which expects as many examples a round" in text
    assert "(continual)" in text


def test_notes_warn_of_heavy_devices_counted_twice_and_of_the_clock():
    double = replace(group("activity"), weighting="examples")
    clock = group("uniform", "continual", config={"by": "clock"})
    for one in clock.runs:
        activity = one.devices["activity"].copy()
        activity[1:, :45] = 0
        one.devices["activity"] = activity
    text = " ".join(notes([group("uniform"), double, clock], 0.5, 1))
    assert "counts heavy devices twice" in text
    assert "75 % of the people with data fall in a single period" in text


def test_caption_names_what_was_run():
    text = comparison_table(four()).caption
    for part in ("home", "60 devices", "40 rounds", "cohort 8", "learning rate 1,", "seeds 0 to 2"):
        assert part in text
    assert "4 periods by device, keep current" in text
