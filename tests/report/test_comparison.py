"""The table of a comparison: what is compared with what, and what it says came out."""

from dataclasses import replace

import numpy as np
import pytest
from fabricated import ACTIVITY, cohort, group

from fedsim.report.comparison import comparison_table
from fedsim.report.curves import CENTRAL
from fedsim.report.effects import baseline, error_change, reaching
from fedsim.report.notes import notes
from fedsim.report.outcome import outcome
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
    assert any(
        "for the 3 policies compared within a column and setting (Bonferroni)" in note
        for note in table.notes
    )


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
    served = ACTIVITY[cohort("uniform")].sum()
    assert row["examples_to_target"] == served * np.median(rounds)


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


def enlarged(cohort, setting):
    one = group("activity", setting, config={"cohort": cohort})
    return replace(one, selection="uniform", variant=f"cohort {cohort}")


def test_only_an_enlarged_cohort_takes_the_amount_of_data_out():
    taken_out = "With the amount of data taken out at equal rounds"
    assert not any(taken_out in note for note in notes(four(), None, 1))
    text = notes([*four(), *(enlarged(15, setting) for setting in BOTH)], None, 1)[1]
    assert (
        f"{taken_out}: against uniform with cohort 15, which processes as many examples in "
        "expectation, averaged over periods, it "
    ) in text
    assert "(continual)" in text


def test_an_enlarged_cohort_of_all_that_hold_data_is_called_clipped():
    text = notes([*four(), enlarged(len(ACTIVITY), "static")], None, 1)[1]
    assert "cohort 60, clipped to the devices that hold data in every period" in text


def test_equal_examples_say_how_many_rounds_each_side_took():
    groups = four()
    served = [ACTIVITY[cohort(policy)].sum() for policy in ("uniform", "activity")]
    taken = 40 * served[0] / served[1]
    text = notes(groups, None, 1)[1]
    assert f"processes {served[1] / served[0]:.1f} times (static)" in text
    assert (
        "After the same number of examples, which took activity "
        f"{taken:.0f} of its 40 rounds against 40 of 40 of uniform, it "
    ) in text


def with_utterances(one, light, heavy):
    """The same runs with the sizes of the outer deciles recorded."""
    for run in one.runs:
        for line in run.rounds:
            if line["figures"]:
                line["figures"] |= {"deciles/utterances_1": light, "deciles/utterances_10": heavy}
    return one


def test_a_decile_of_few_utterances_is_not_shown_and_the_note_says_how_few():
    table = comparison_table([with_utterances(group("uniform"), 2, 1240)])
    text = table.markdown()
    assert table.rows[0].get("lightest_decile") is None
    assert table.rows[0]["heaviest_decile"] is not None
    assert "light %" in text
    assert "(2 and 1,240 test utterances; – below 30)" in text


def test_a_decile_of_enough_utterances_is_shown_and_so_is_one_of_an_older_record():
    table = comparison_table([with_utterances(group("uniform"), 30, 1240)])
    assert table.rows[0]["lightest_decile"] is not None
    assert "(30 and 1,240 test utterances)" in table.markdown()
    older = comparison_table([group("uniform")])
    assert older.rows[0]["lightest_decile"] is not None
    assert "test utterances)" not in older.markdown()


def test_the_verdict_on_the_settings_says_that_its_interval_is_not_corrected():
    said = "a single comparison whose interval is not corrected"
    assert said in outcome(four(static=-0.4, continual=0.02), 5)
    assert said not in outcome(four(static=-0.4, continual=0.02), 1)


@pytest.mark.parametrize(
    ("config", "client", "rate"),
    [
        ({"learning_rate": None}, {"learning_rate": 0.3}, "0.3"),
        ({"learning_rate": None}, {"learning_rate": None}, "1"),
        ({"learning_rate": None, "model": "transformer"}, {"learning_rate": None}, "0.1"),
        ({"learning_rate": None, "optimizer": "adamw"}, {"learning_rate": None}, "0.001"),
    ],
)
def test_the_caption_names_the_learning_rate_that_was_used(config, client, rate):
    one = group("uniform", config=config)
    for run in one.runs:
        run.config["simulation"]["client"] |= client
    assert f"at learning rate {rate}, " in comparison_table([one]).caption


def test_assumptions_come_from_all_runs_each_once_as_a_sentence():
    groups = four()
    for run in groups[0].runs:
        run.start["assumptions"] = ["rows without a person were left out"]
    groups[3].runs[1].start["assumptions"] = [
        "rows without a person were left out",
        "in period 2 only 5 devices hold data.",
    ]
    assert notes(groups, None, 1)[-1] == (
        "Assumptions: Rows without a person were left out. In period 2 only 5 devices hold data."
    )


def test_runs_of_different_commits_are_named():
    groups = four()
    said = "Runs come from different commits"
    assert not any(said in note for note in notes(groups, None, 1))
    for one in groups:
        for run in one.runs:
            run.config["environment"] = {"commit": "72ee5bb5e56ffa39"}
    assert not any(said in note for note in notes(groups, None, 1))
    groups[0].runs[0].config["environment"] = {"commit": None}
    assert notes(groups, None, 1)[-1] == (
        f"{said} of the code: an unknown one (1 run), 72ee5bb5e5 (11 runs)."
    )


def test_rates_that_fall_short_of_the_cohort_are_summed():
    groups = four()
    said = "Expected devices a round, where caps or a lack of devices"
    full = np.full((2, len(ACTIVITY)), 8 / len(ACTIVITY))
    for one in groups:
        one.runs[0].cohorts["rates"] = full
    assert not any(said in note for note in notes(groups, None, 1))
    groups[3].runs[0].cohorts["rates"] = full * [[0.5], [0.75]]
    (note,) = (note for note in notes(groups, None, 1) if said in note)
    assert note.endswith(": activity (continual) 4.0 to 6.0 of 8.")


def test_notes_say_how_central_training_went_and_that_top_hears_nobody_else():
    text = " ".join(notes([group("uniform"), group("top"), central()], None, 1))
    assert "by AdamW (rate 0.002, batches of 32) for 40 epochs; figures are of the last" in text
    assert "never hears the others" in text
    ours = central()
    ours.runs[0].config["central"] = {"optimizer": "AdamW", "learning_rate": 0.1, "batch_size": 8}
    assert "(rate 0.1, batches of 8)" in " ".join(notes([group("uniform"), ours], None, 1))


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
