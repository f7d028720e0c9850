"""Trackers are told what the record says, and change nothing in the run."""

import logging

import pytest
from stopping import ROUNDS, killed, simulation

from fedsim import ConfigError, load_run


class Noted:
    """A tracker that notes what it is told; it fails at a call of a name, if one is given."""

    def __init__(self, failing: str = "", error: Exception | None = None) -> None:
        self.calls: list = []
        self._failing = failing
        self._error = error or RuntimeError("the store is full")

    def open(self, folder, config):
        self._note("open", config)
        return self

    def round(self, line):
        self._note("round", line)

    def end(self, summary):
        self._note("end", summary)

    def close(self, error):
        self._note("close", error)

    def _note(self, name, value):
        self.calls.append((name, value))
        if name == self._failing:
            raise self._error

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def test_it_is_told_the_config_every_round_the_summary_and_that_nothing_went_wrong(tmp_path):
    tracker = Noted()
    run = simulation(tracker).run(tmp_path / "run")
    assert tracker.names == ["open", *["round"] * ROUNDS, "end", "close"]
    values = [value for _, value in tracker.calls]
    assert values[0] == run.config
    assert values[1:-2] == run.rounds
    assert values[-2:] == [run.summary, None]


def test_it_changes_nothing_in_the_run():
    with_tracker = simulation(Noted()).run()
    without = simulation().run()
    assert with_tracker.config == without.config
    assert with_tracker.summary["model_sha256"] == without.summary["model_sha256"]


def test_a_run_that_goes_on_tells_every_round_of_the_record_once(tmp_path):
    left = killed(tmp_path / "run", Noted())
    tracker = Noted()
    simulation(tracker).run(left, resume=True)
    rounds = [value["round"] for name, value in tracker.calls if name == "round"]
    assert rounds == [1, 2, 3, 4, 5, 6]


def test_it_hears_of_an_interrupt(tmp_path):
    tracker = Noted()
    killed(tmp_path / "run", tracker)
    assert tracker.names == ["open", *["round"] * 5, "close"]
    assert isinstance(tracker.calls[-1][1], KeyboardInterrupt)


@pytest.mark.parametrize("failing", ["round", "end", "close"])
def test_one_that_fails_is_left_out_and_the_run_goes_on(tmp_path, caplog, failing):
    broken, whole = Noted(failing), Noted()
    with caplog.at_level(logging.WARNING):
        run = simulation(broken, whole).run(tmp_path / "run")
    assert load_run(tmp_path / "run").summary["rounds"] == ROUNDS == len(run.rounds)
    assert whole.names == ["open", *["round"] * ROUNDS, "end", "close"]
    assert broken.names[-1] == failing and broken.names.count(failing) == 1
    said = [record.message for record in caplog.records if "Noted (1) failed" in record.message]
    assert len(said) == 1 and "the store is full" in said[0] and "record is whole" in said[0]


def test_one_that_cannot_begin_is_refused_and_leaves_nothing(tmp_path):
    first = Noted()
    with pytest.raises(ConfigError, match="Noted cannot be used: the store is full; run without"):
        simulation(first, Noted("open")).run(tmp_path / "run")
    assert first.names == ["open", "close"]
    assert list(tmp_path.iterdir()) == []


def test_its_own_refusal_is_handed_on():
    with pytest.raises(ConfigError, match=r"^name a server$"):
        simulation(Noted("open", ConfigError("name a server"))).run()
