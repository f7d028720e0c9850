"""Claims about turns: one candidate runs at a time, and none is left behind."""

import sys
import threading
import time

import pytest

from experiments.turns import in_turns


def test_candidates_take_a_round_each_and_end_in_reverse():
    said = []

    def candidate(name):
        def run(lap):
            said.append(f"{name} begins")
            for round in range(3):
                said.append(f"{name}{round}")
                lap()
            said.append(f"{name} ends")

        return run

    seconds = in_turns({name: candidate(name) for name in "abc"}, rounds=3)
    rounds = [
        "a begins",
        "a0",
        "b begins",
        "b0",
        "c begins",
        "c0",
        *["c1", "b1", "a1", "a2", "b2", "c2"],
    ]
    assert said == [*rounds, "c ends", "b ends", "a ends"]
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys("abc", 3)


def test_nobody_runs_while_another_does_and_waiting_is_not_timed(monkeypatch):
    running, clock = [], [0.0]
    monkeypatch.setattr("experiments.turns.time.perf_counter", lambda: clock[0])

    def candidate(own):
        def run(lap):
            for _ in range(4):
                running.append(1)
                time.sleep(0.01)
                assert len(running) == 1
                running.pop()
                clock[0] += own
                lap()

        return run

    seconds = in_turns({own: candidate(own) for own in (1.0, 10.0, 100.0)}, rounds=4)
    assert seconds == {own: [own] * 4 for own in (1.0, 10.0, 100.0)}


def test_a_candidate_keeps_its_switch_interval_to_itself():
    before, seen = sys.getswitchinterval(), []

    def changes(lap):
        sys.setswitchinterval(0.25)
        for _ in range(2):
            lap()
            seen.append(("changes", sys.getswitchinterval()))

    def looks(lap):
        for _ in range(2):
            seen.append(("looks", sys.getswitchinterval()))
            lap()

    in_turns({"changes": changes, "looks": looks}, rounds=2)
    assert {value for name, value in seen if name == "changes"} == {0.25}
    assert {value for name, value in seen if name == "looks"} == {before}
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_error_of_one_ends_all(error):
    ended = []

    def waits(lap):
        try:
            while True:
                lap()
        finally:
            ended.append(1)

    def fails(lap):
        lap()
        raise error("no such luck")

    before = threading.active_count()
    with pytest.raises(error, match="no such luck"):
        in_turns({"waits": waits, "fails": fails, "waits too": waits}, rounds=9)
    assert ended == [1, 1]
    assert threading.active_count() == before


@pytest.mark.parametrize("laps", [1, 4, 100])
def test_one_with_other_rounds_is_an_error_and_holds_nobody_up(laps):
    def other(lap):
        for _ in range(laps):
            lap()

    def thrice(lap):
        for _ in range(3):
            lap()

    with pytest.raises(RuntimeError, match=f"^other had {min(laps, 4)} rounds or more instead of"):
        in_turns({"other": other, "thrice": thrice}, rounds=3)


def test_one_that_will_not_be_stopped_is_told_again():
    told = []

    def stubborn(lap):
        while len(told) < 2:
            try:
                lap()
            except BaseException:
                told.append(1)

    def fails(lap):
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        in_turns({"stubborn": stubborn, "fails": fails}, rounds=3)
    assert told == [1, 1]
