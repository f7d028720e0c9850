"""Tables of runs as they are."""

import pytest

from fedsim import compare
from fedsim.record import Run


def run_of(lines, **summary) -> Run:
    return Run(
        path=None,
        config={
            "setting": "static",
            "selection_label": "activity",
            "weighting": "equal",
            "seed": 3,
        },
        start={"population": "home", "test_examples": 1234},
        rounds=[{"period": 1, "cohort_size": 4, "cohort_examples": 50, **line} for line in lines],
        summary={"seed": 3, "rounds": len(lines), **summary},
        cohorts={},
        devices={},
    )


def line(round, accuracy=None, loss=0.5):
    return {
        "round": round,
        "train_loss": loss,
        "intent_accuracy": accuracy,
        "slot_f1": accuracy,
        "exact_match": accuracy,
    }


def test_a_runs_table_has_its_measured_rounds():
    table = run_of([line(1), line(2, 0.25), line(3), line(4, 0.5, None)]).table()
    assert [row["round"] for row in table.rows] == [2, 4]
    text = table.markdown()
    assert "25.0" in text
    assert "50.0" in text
    assert "0.500" in text


def test_its_caption_says_what_was_run_and_on_how_much_it_was_measured():
    caption = run_of([line(1, 0.1)]).table().caption
    for part in ("home", "static", "activity selection", "weighting equal", "seed 3", "1,234"):
        assert part in caption


def test_a_round_without_a_loss_has_an_empty_cell():
    (row,) = run_of([line(1, 0.1, None)]).table().rows
    assert row["train_loss"] == ""


def test_comparing_gives_a_row_a_run_with_last_figures():
    runs = [
        run_of([line(1, 0.1)], intent_accuracy=0.75, slot_f1=0.5, exact_match=0.25),
        run_of([line(1), line(2)]),
    ]
    table = compare(runs)
    assert [row["rounds"] for row in table.rows] == [1, 2]
    assert table.rows[0]["intent_accuracy"].mean == pytest.approx(0.75)
    assert table.rows[1]["intent_accuracy"] is None
    assert "75.0" in table.markdown()
    assert [row["examples"] for row in table.rows] == [50, 100]


def test_failed_devices_are_added_up_where_there_are_any():
    lines = [line(1) | {"failures": 2}, line(2, 0.1), line(3, 0.2) | {"failures": 3}]
    table = run_of(lines).table()
    assert [row["failed"] for row in table.rows] == [2, 5]
    assert "failed so far" in table.markdown()
    assert "failed" not in run_of([line(1, 0.1)]).table().markdown()


def test_claims_have_columns_where_there_is_any():
    infinite = float("inf")
    private = line(1, 0.1) | {"epsilon_max": 3.25, "epsilon_median": 1.0}
    open_ = line(1, 0.1) | {"epsilon_max": infinite, "example_epsilon_max": infinite}
    assert "eps worst" in run_of([private]).table().markdown()
    assert "| 3.25 |" in " ".join(run_of([private]).table().markdown().split())
    assert "eps" not in run_of([open_]).table().markdown()
    both = compare([run_of([private], epsilon_max=3.25), run_of([open_], epsilon_max=infinite)])
    assert [row["epsilon_max"] for row in both.rows] == [3.25, infinite]
    assert "inf" in both.markdown()
