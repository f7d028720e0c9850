"""Claims about rounds and periods."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population.periods import Keep
from fedsim.schedule import Continual, Static


@st.composite
def schedules(draw):
    periods = draw(st.integers(1, 12))
    return Continual(periods=periods, rounds=draw(st.integers(periods, 200)))


@given(schedules())
def test_periods_take_equal_rounds_and_earlier_ones_the_remainder(schedule):
    of = [schedule.period(round) for round in range(1, schedule.rounds + 1)]
    assert of == sorted(of)
    counts = [of.count(period) for period in range(schedule.periods)]
    assert sum(counts) == schedule.rounds
    assert max(counts) - min(counts) <= 1
    assert all(earlier >= later for earlier, later in pairwise(counts))


def test_static_is_one_period_that_keeps_everything_it_has():
    schedule = Static(rounds=4)
    assert {schedule.period(round) for round in range(1, 5)} == {0}
    assert (schedule.periods, schedule.retention) == (1, Keep("current"))


def test_keep_is_read_from_its_text():
    schedule = Continual(periods=2, rounds=2, keep="reservoir:50")
    assert schedule.retention == Keep("reservoir", 50)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"periods": 0, "rounds": 5}, "periods is 0; choose 1 or more"),
        ({"periods": 5, "rounds": 4}, "rounds is 4, but there are 5 periods; choose 5 rounds"),
        ({"periods": 2, "rounds": 4, "keep": "window"}, "keep is 'window'; expected current"),
        ({"periods": 2, "rounds": 4, "by": "Clock"}, "by is 'Clock'; choose one of device, clock"),
        ({"periods": 2, "rounds": 4, "keep": "reservoir:0"}, "keep is 'reservoir:0'; expected"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_by_name(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Continual(**options)


def test_zero_rounds_are_refused():
    with pytest.raises(ConfigError, match="rounds is 0; choose 1 or more"):
        Static(rounds=0)
