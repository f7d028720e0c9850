"""Claims about when people of the built-in corpus speak: closed forms against counting."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedsim.population.home_people import TICKS, People, fill


@given(
    size=st.integers(1, 400),
    phase=st.integers(0, 9),
    bounds=st.lists(st.integers(0, TICKS), min_size=2, max_size=2, unique=True),
    periods=st.integers(1, 70),
    by=st.sampled_from(["device", "clock"]),
)
def test_closed_form_counts_equal_counting_one_by_one(size, phase, bounds, periods, by):
    start, stop = sorted(bounds)
    person = People(*(np.array([value]) for value in (size, phase, start, stop, True)))
    counted, periods_of = np.zeros(periods, np.int64), []
    for j in range(size):
        if by == "device":
            period = j * periods // size
        else:
            moment = Fraction(start, TICKS) + Fraction(stop - start, TICKS) * Fraction(
                2 * j + 1, 2 * size
            )
            period = min(int(moment * periods), periods - 1)
        periods_of.append(period)
        counted[period] += (j + phase) % 10 not in (4, 9)
    assert np.diff(person.trained(person.edges(periods, by)), axis=1)[0].tolist() == list(counted)
    assert person.period(np.arange(size), periods, by).tolist() == periods_of


@given(size=st.integers(1, 500), phase=st.integers(0, 9), split=st.sampled_from([1, 2]))
def test_closed_form_of_held_out_counts_equals_counting_one_by_one(size, phase, split):
    person = People(*(np.array([value]) for value in (size, phase, 0, TICKS, True)))
    residue = {1: 4, 2: 9}[split]
    counted = sum((j + phase) % 10 == residue for j in range(size))
    assert person.held_out(split).tolist() == [counted]
    assert len(person.positions(split)) == counted


@given(held=st.lists(st.integers(0, 50), min_size=1, max_size=30), room=st.integers(0, 400))
def test_filling_takes_all_that_fits_and_never_more(held, room):
    taken = fill(np.array(held), room, np.random.default_rng(0))
    assert (taken >= 0).all() and (taken <= held).all()
    assert taken.sum() == min(room, sum(held))
