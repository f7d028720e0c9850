"""Claims about what a population's devices hold under every cut and every way to keep the past."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import Utterance
from fedsim.population.labels import Inventory
from fedsim.population.periods import Keep
from fedsim.population.population import MOST_PERIODS, Population
from fedsim.population.vocabulary import HashedVocabulary

LABELS = Inventory(("on", "off"), ("room",))
WORDS = HashedVocabulary()


def people_who_said(*sizes: int) -> Population:
    """People with this many training rows, every word of them different; they take turns."""
    rows = [
        Utterance((f"w{who}-{turn}",), ("O",), "on", f"p{who}", "train", 10 * turn + who)
        for who, size in enumerate(sizes)
        for turn in range(size)
    ]
    return Population(
        name="some",
        source=ArraySource.build(rows, LABELS, WORDS),
        inventory=LABELS,
        vocabulary=WORDS,
    )


def said(population: Population, device: int, period: int, seed: int = 0) -> list[tuple]:
    """The words a device holds, as rows of the vocabulary."""
    return [tuple(row) for row in population.held(device, period, seed).token_ids]


def said_in(population: Population, device: int, period: int) -> list[tuple]:
    """The words a device said in a period, read off all it ever said."""
    examples = population.train(device)
    spoken = zip(examples.token_ids, examples.period, strict=True)
    return [tuple(row) for row, when in spoken if when == period]


CUTS = st.tuples(st.integers(1, 5), st.sampled_from(["device", "clock"]))
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=3)


@given(sizes=SIZES, cut=CUTS)
@settings(max_examples=40)
def test_periods_share_out_everything_that_was_said(sizes, cut):
    population = people_who_said(*sizes).cut(*cut)
    for device, size in enumerate(sizes):
        parts = [said(population, device, period) for period in range(cut[0])]
        everything = [tuple(row) for row in population.train(device).token_ids]
        assert list(chain(*parts)) == everything
        assert len(everything) == size
        assert [len(part) for part in parts] == population.counts[device].tolist()


@given(sizes=SIZES, cut=CUTS, keep=st.sampled_from(["current", "window:2", "reservoir:3", "all"]))
@settings(max_examples=60)
def test_devices_hold_the_present_and_what_they_keep_of_the_past(sizes, cut, keep):
    population = people_who_said(*sizes).cut(*cut, keep=Keep.parse(keep))
    for device in range(population.devices):
        parts = [said_in(population, device, period) for period in range(cut[0])]
        for period in range(cut[0]):
            held = said(population, device, period, seed=3)
            past = list(chain(*parts[:period]))
            assert len(held) == population.activity(period)[device]
            if keep == "current":
                assert held == parts[period]
            elif keep == "window:2":
                assert held == list(chain(*parts[max(0, period - 1) : period + 1]))
            elif keep == "all":
                assert held == past + parts[period]
            else:
                kept = held[: len(held) - len(parts[period])]
                assert held[len(kept) :] == parts[period]
                assert len(kept) == min(3, len(past)) and set(kept) <= set(past)


def test_a_reservoir_is_drawn_by_the_seed_of_the_run():
    population = people_who_said(40).cut(2, keep=Keep.parse("reservoir:5"))
    first = said(population, 0, 1, seed=1)
    assert said(population, 0, 1, seed=1) == first
    assert said(population, 0, 1, seed=2) != first


def test_a_cut_is_made_of_the_whole_and_not_of_an_earlier_cut():
    whole = people_who_said(9, 4)
    again = whole.cut(3, "clock", Keep.parse("all")).cut(2)
    assert again.fingerprint == whole.cut(2).fingerprint
    assert again.activity(1).tolist() == whole.cut(2).activity(1).tolist() == [4, 2]


def test_the_way_to_keep_is_part_of_the_fingerprint():
    whole = people_who_said(9, 4)
    kept = [whole.cut(3, keep=Keep.parse(text)) for text in ("current", "window:2", "all")]
    assert len({population.fingerprint for population in kept}) == 3


def test_more_periods_than_rows_leave_some_of_them_empty():
    population = people_who_said(2).cut(MOST_PERIODS)
    assert population.counts.shape == (1, MOST_PERIODS)
    assert sorted(population.counts[0])[-3:] == [0, 1, 1]
    assert population.activity(1).tolist() == [0]
    assert len(population.held(0, 1)) == 0


@pytest.mark.parametrize("periods", [0, -1, MOST_PERIODS + 1])
def test_impossible_numbers_of_periods_are_refused(periods):
    with pytest.raises(ConfigError, match=f"periods is {periods}; choose between 1 and 32,767"):
        people_who_said(2).cut(periods)


@pytest.mark.parametrize("shape", [(), (4,), (6,), (5, 1), (0,)])
def test_a_mask_has_one_place_for_each_training_example(shape):
    population = people_who_said(3, 2)
    for change in (population.nulled, population.without):
        with pytest.raises(ConfigError, match=r"mask has shape .* has 5 training examples"):
            change(np.ones(shape, bool))


def test_nulled_people_hold_as_much_as_before_in_every_period():
    population = people_who_said(6, 3).cut(3, keep=Keep.parse("reservoir:2"))
    nulled = population.nulled(np.arange(9) % 2 == 0)
    for period in range(3):
        assert nulled.activity(period).tolist() == population.activity(period).tolist()
        for device in range(2):
            assert said(nulled, device, period) == said(population, device, period)
    assert nulled.train(1).null.tolist() == [True, False, True]
    assert not population.train(1).null.any(), "a view leaves the population as it was"
