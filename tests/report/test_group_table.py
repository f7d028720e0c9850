"""A table of any runs says how they compare, how sure that is, and what is claimed."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedsim.report.cells import Bold
from fedsim.report.group_table import group_table
from fedsim.report.grouping import grouped

ACCURACIES = {
    "activity": (0.5, 0.56, 0.61),
    "uniform": (0.4, 0.47, 0.49),
    "sqrt": (0.45, 0.45, 0.6),
}


def made(run, selection, seed, accuracy, **line):
    lines = [*run.rounds[:-1], run.rounds[-1] | {"intent_accuracy": accuracy} | line]
    config = deepcopy(run.config) | {"selection_label": selection, "seed": seed}
    return replace(run, config=config, rounds=lines)


@pytest.fixture(scope="module")
def table(private_run):
    """Three policies, three seeds each."""
    runs = [
        made(private_run, name, seed, accuracy, epsilon_max=2.0 + seed)
        for name, values in ACCURACIES.items()
        for seed, accuracy in enumerate(values)
    ]
    return group_table(grouped(runs))


def test_a_row_is_the_mean_over_seeds_with_its_interval(table):
    assert [row["run"] for row in table.rows] == list(ACCURACIES)
    for row, values in zip(table.rows, ACCURACIES.values(), strict=True):
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        found = row["intent_accuracy"]
        assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_rows_are_tested_against_the_first_by_seed_and_corrected(table):
    first, *others = table.rows
    assert "p" not in first
    error = 1 - np.array(ACCURACIES["activity"])
    for row in others:
        changes = (1 - np.array(ACCURACIES[row["run"]])) / error - 1
        assert row["error_change"].mean == pytest.approx(changes.mean())
        expected = min(1, 2 * stats.ttest_1samp(changes, 0).pvalue)
        assert row["p"] == pytest.approx(expected)
    assert any("two-sided paired t test" in note and "Bonferroni" in note for note in table.notes)


def test_the_best_mean_is_bold_in_markdown_and_latex(table):
    (_, panels), *_ = table.parts
    cells = {c.key: texts for panel in panels for c, texts in panel}["intent_accuracy"]
    assert [isinstance(text, Bold) for text in cells] == [True, False, False]
    assert f"**{cells[0]}**" in table.markdown()
    assert rf"\textbf{{{cells[0].replace('±', '$' + chr(92) + 'pm$')}}}" in table.latex()


def test_epsilons_are_the_worst_of_the_seeds_beside_what_they_do_not_cover(table):
    assert [row["epsilon_max"] for row in table.rows] == [4.0, 4.0, 4.0]
    assert any(note.startswith("Outside the claim: who takes part") for note in table.notes)


def test_one_seed_without_a_claim_is_told_that_it_says_nothing_about_chance(plain_run):
    found = group_table(grouped([plain_run]))
    keys = {column.key for column in found.columns}
    assert not keys & {"epsilon_max", "p", "error_change", "mia_auc"}
    assert "One seed says nothing about chance." in found.notes
    assert "**" not in found.markdown()


def test_other_data_are_another_baseline(private_run):
    other = made(private_run, "uniform", 0, 0.3)
    other = replace(other, start=other.start | {"fingerprint": "f", "test_examples": 9})
    found = group_table(grouped([made(private_run, "activity", 0, 0.5), other]))
    assert all("error_change" not in row for row in found.rows)
    assert "**" not in found.markdown()
    assert "Rows on different data" in found.notes[1]
    assert f"{private_run.start['test_examples']:,} or 9 test utterances" in found.caption


def test_a_refuted_claim_is_said(private_run):
    line = {
        "epsilon_audit_low": 9.0, "epsilon_claim_at_delta_audit": 1.0,
        "figures": {"leakage/bound_exceeds_claim": True},
    }  # fmt: skip
    found = group_table(grouped([made(private_run, "activity", 0, 0.5, **line)]))
    assert any(note.startswith("CLAIM REFUTED (activity, seed 0)") for note in found.notes)
