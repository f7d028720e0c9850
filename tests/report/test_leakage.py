"""What a run's table says of leakage."""

import numpy as np
from test_runs import line, run_of

from fedsim import compare
from fedsim.report.leakage import leakage_columns, refutation

MEASURED = {"mia_auc": 0.55, "epsilon_audit_low": 1.5, "delta_audit": 1e-9}


def measured(round, claim, low_light=0.0, light=9.0, exceeded=False):
    figures = {
        "leakage/bound_exceeds_claim": exceeded,
        "leakage/epsilon_audit_low_light": low_light,
        "leakage/epsilon_claim_at_delta_audit_light": light,
    }
    found = {**MEASURED, "epsilon_claim_at_delta_audit": claim, "figures": figures}
    return {**line(round, 0.1), **found}


def test_a_run_without_a_panel_has_no_columns_and_no_notes():
    table = run_of([line(1, 0.1)]).table()
    assert not {"mia_auc", "epsilon_audit_low"} & {column.key for column in table.columns}
    assert list(table.notes) == []


def test_attack_bound_and_claim_have_columns_where_there_is_something_to_show():
    lines = [measured(1, 4.0), line(2, 0.1)]
    keys = ["mia_auc", "epsilon_audit_low", "epsilon_claim_at_delta_audit"]
    assert [column.key for column in leakage_columns(lines)] == keys
    assert [column.key for column in leakage_columns([measured(1, np.inf)])] == keys[:2]
    assert "comparable claim" in run_of(lines).table().markdown()
    assert "MIA AUC" in compare([run_of(lines, **MEASURED)]).markdown()


def test_the_notes_of_the_record_stand_under_the_table():
    run = run_of([measured(1, 4.0)])
    run.start["probes"] = {"Leakage": {"notes": ["fair coins took 12 of 90 examples"]}}
    assert list(run.table().notes) == ["Fair coins took 12 of 90 examples."]


def test_a_refuted_claim_is_said_with_whose_it_is_and_when_it_was_first():
    lines = [measured(1, 4.0), measured(2, 4.0, 3.25, 0.5, True), measured(3, 9.0, exceeded=True)]
    said = refutation(run_of(lines))
    assert "round 2 " in said and "delta 1e-09" in said
    assert "(epsilon > 3.25 for its light devices, where 0.5 is claimed)" in said
    assert run_of(lines).table().notes[0].startswith("CLAIM REFUTED: the audit of round 2")


def test_a_bound_within_its_claim_refutes_nothing():
    assert refutation(run_of([measured(1, 4.0), line(2)])) is None
