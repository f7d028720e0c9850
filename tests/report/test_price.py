"""Sentences and figures of the price of activity say what the rows say, and how sure that is."""

import numpy as np
import pytest
from fabricated import run

from fedsim.report.curves import Group
from fedsim.report.price import Priced, price_table


def priced(selection, held, accuracies, *, epsilon=8.0, noise=0.02, setting="static", variant=""):
    """A row whose runs, one a seed, end at these accuracies."""
    runs = []
    for seed, accuracy in enumerate(accuracies):
        one = run(selection, setting, seed, rounds=2, config={"weighting": "equal"})
        spent = {
            "epsilon_max": epsilon,
            "epsilon_median": epsilon / 2,
            # Cohorts differ from seed to seed.
            "epsilon_participation_max": 10 * epsilon + seed % 2,
        }
        figures = {
            "privacy/noise_multiplier": 1.0,
            "privacy/effective_noise": noise,
            "privacy/epsilon_heavy": epsilon,
            "privacy/epsilon_light": epsilon / 9,
        }
        for line in one.rounds:
            line |= spent | {"intent_accuracy": accuracy, "slot_f1": accuracy}
            line["figures"] = figures
        one.start |= {
            "privacy": {"clip_norm": 0.5, "delta": 1e-5},
            "untrained": {"intent_accuracy": 0.01},
        }
        last = np.shape(one.devices["activity"])[1] - 1
        ends = np.array([0, last])
        arrays = {"devices": ends, "epsilon": np.array([epsilon / 9, epsilon]), "worst": last}
        one.arrays = {"ledger": arrays}.get
        runs.append(one)
    group = Group(
        setting=setting, selection=selection, weighting="equal", variant=variant, runs=runs
    )
    return Priced(group=group, held=held)


def rows(capped, setting="static", uniform=(0.20, 0.21, 0.19)):
    """Uniform and activity selection, and capped rates of these accuracies at equal epsilon."""
    return [
        priced("uniform", "both", uniform, setting=setting),
        priced("activity", "noise", [a + 0.1 for a in uniform], epsilon=40.0, setting=setting),
        priced("activity", "epsilon", [0.02] * len(uniform), noise=0.06, setting=setting),
        priced("activity, cap 0.1", "epsilon", capped, noise=0.026, setting=setting),
    ]


def advice(made) -> str:
    return price_table(made).notes[2]


def test_a_policy_that_is_better_in_every_seed_alike_is_advised():
    found = advice(rows([0.25, 0.26, 0.24]))
    assert "So draw by activity, cap 0.1 selection with equal weights: +5.0 [+5.0, +5.0]" in found


def test_a_better_mean_that_may_be_chance_is_told_with_its_interval_and_not_advised():
    """+2 points on average, of -4, +9 and +1: far from the 95 % of a paired test."""
    found = advice(rows([0.16, 0.30, 0.20]))
    assert found.startswith("So draw uniformly")
    assert "nothing is measurably more accurate" in found
    assert "activity, cap 0.1 selection with equal weights: +2.0 [" in found
    assert "nothing measured is more accurate" not in found


def test_where_uniform_selection_is_best_nothing_measured_is_more_accurate():
    assert "nothing measured is more accurate" in advice(rows([0.1, 0.1, 0.1]))


def test_one_seed_shows_nothing():
    table = price_table(rows([0.5], uniform=(0.2,)))
    assert "a single seed shows no policy" in table.notes[2]
    assert "Accuracies are of one seed, which says nothing about chance." in table.notes
    assert "±" not in "".join(table.notes[:3])


def test_settings_that_fall_differently_are_both_told():
    found = advice([*rows([0.1] * 3), *rows([0.25, 0.26, 0.24], setting="continual")])
    static, continual = found.index("(static)"), found.index("(continual)")
    assert found.index("draw uniformly") < static < found.index("draw by activity, cap") < continual
    reasons = advice([*rows([0.1] * 3), *rows([0.16, 0.30, 0.20], setting="continual")])
    assert reasons.count("draw uniformly") == 1
    assert "nothing measured is more accurate at the same epsilon for the worst (static)" in reasons
    assert reasons.index("nothing is measurably more accurate") < reasons.index("(continual)")
    alike = advice([*rows([0.1] * 3), *rows([0.1] * 3, setting="continual")])
    assert alike.count("draw uniformly") == 1 and "(static)" not in alike


def test_accuracies_of_several_seeds_have_their_interval_in_sentences_and_rows():
    table = price_table(rows([0.25, 0.26, 0.24]))
    # t(0.975, 2) x 0.01 / sqrt(3) is 2.5 points.
    assert "is the most accurate on average with 25.0 ± 2.5 %" in table.notes[1]
    assert "against uniform's 20.0 ± 2.5 %" in table.notes[1]
    assert "25.0 ± 2.5" in table.markdown()


def test_the_median_device_of_the_first_sentence_is_bounded_from_above():
    assert "and the median device at most 20." in price_table(rows([0.1] * 3)).notes[0]


def test_who_sees_cohorts_is_told_of_the_dearest_seed():
    table = price_table(rows([0.1] * 3))
    assert [row["epsilon_participation_max"] for row in table.rows] == [81, 401, 81, 81]


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_are_drawn_where_there_are_several_seeds(seeds):
    table = price_table(rows([0.25, 0.26, 0.24][:seeds], uniform=(0.20, 0.21, 0.19)[:seeds]))
    figures = table.figures()
    assert len(figures["accuracy-over-epsilon"].axes[0].collections) == (1 if seeds > 1 else 0)
    panel = figures["accuracy-at-equal-epsilon"].axes[0]
    assert len(panel.lines) == 3
    assert len(panel.collections) == (3 if seeds > 1 else 0)
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["uniform", "activity", "activity, cap 0.1"]
