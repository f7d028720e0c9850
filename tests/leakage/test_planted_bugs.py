"""Every planted bug is caught by name, and the mechanism without it passes the same check."""

from dataclasses import replace
from pathlib import Path

import pytest
from audited import one_run, repeated_runs
from planted_bugs import BUGS, QUIETER, table

from fedsim.privacy.release import DeviceLevel

DOCS = Path(__file__).parents[2] / "docs" / "planted-bugs.md"

PAIRS = [(bug, catcher) for bug in BUGS for catcher in bug.catchers]
EVERY_PAIR = pytest.mark.parametrize(
    ("bug", "catcher"), PAIRS, ids=[f"{bug.name}, {c.__name__}" for bug, c in PAIRS]
)
CANARIES = [bug for bug in BUGS if bug.one_run is not None]
REPEATED = [bug for bug in BUGS if bug.repeated is not None]


@EVERY_PAIR
def test_the_bug_is_caught(bug, catcher):
    assert catcher(bug.broken)


@EVERY_PAIR
def test_its_unbroken_twin_passes(bug, catcher):
    assert catcher(bug.sound) is None


@pytest.mark.parametrize("bug", CANARIES, ids=[bug.name for bug in CANARIES])
def test_canaries_find_what_they_have_the_power_for_and_no_more(bug):
    assert one_run(bug.canaries).alarm == bug.one_run


@pytest.mark.parametrize("seed", [0, 1])
def test_canaries_raise_no_alarm_about_the_unbroken_twin(seed):
    """A false alarm has a probability of 0.05 at most, and one of much less in truth."""
    sound = replace(CANARIES[0].canaries, level=DeviceLevel(**QUIETER))
    assert not one_run(sound, seed).alarm


@pytest.mark.slow
@pytest.mark.parametrize("bug", REPEATED, ids=[bug.name for bug in REPEATED])
def test_repeated_runs_find_the_bug(bug):
    assert repeated_runs(bug.broken).alarm == bug.repeated


@pytest.mark.slow
@pytest.mark.parametrize("bug", REPEATED, ids=[bug.name for bug in REPEATED])
def test_repeated_runs_raise_no_alarm_about_the_unbroken_twin(bug):
    """A false alarm has a probability of 0.05 at most."""
    assert not repeated_runs(bug.sound).alarm


def test_the_table_in_the_docs_is_this_one():
    assert table() in DOCS.read_text("utf-8"), f"docs/planted-bugs.md lacks the table:\n{table()}"
