"""Claims about populations with examples removed, made null, or devices added."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import Utterance, concatenate
from fedsim.population.home import home
from fedsim.population.labels import Inventory
from fedsim.population.periods import Keep
from fedsim.population.population import Population
from fedsim.population.vocabulary import HashedVocabulary

LABELS = Inventory(("on", "off"), ())
SIZES = (7, 1, 4)
TOTAL = sum(SIZES)


def people() -> Population:
    """Three people of 7, 1 and 4 training rows, all different, and one test row each."""
    rows = [
        Utterance((f"{name}{i}",), ("O",), LABELS.intents[i % 2], name, split, 10 * i)
        for name, size in zip("abc", SIZES, strict=True)
        for i, split in enumerate(["train"] * size + ["test"])
    ]
    vocabulary = HashedVocabulary()
    return Population(
        name="three",
        source=ArraySource.build(rows, LABELS, vocabulary),
        inventory=LABELS,
        vocabulary=vocabulary,
    )


def words(population: Population) -> list[list[tuple]]:
    """First word of every training example, by device."""
    return [
        [tuple(row) for row in population.train(device).token_ids]
        for device in range(population.devices)
    ]


MASKS = st.lists(st.booleans(), min_size=TOTAL, max_size=TOTAL).map(np.array)
CUTS = st.tuples(st.integers(1, 4), st.sampled_from(["device", "clock"]))


@given(mask=MASKS, cut=CUTS)
@settings(max_examples=50)
def test_without_removes_exactly_the_masked_examples(mask, cut):
    whole = people().cut(*cut)
    rest = whole.without(mask)
    starts = whole.starts
    for device, (before, after) in enumerate(zip(words(whole), words(rest), strict=True)):
        kept = ~mask[starts[device] : starts[device + 1]]
        assert after == [word for word, keep in zip(before, kept, strict=True) if keep]
        periods = whole.train(device).period[kept]
        assert rest.counts[device].tolist() == np.bincount(periods, minlength=cut[0]).tolist()
        assert rest.train(device).period.tolist() == periods.tolist()


@given(first=MASKS, cut=CUTS)
@settings(max_examples=30)
def test_removals_add_up(first, cut):
    whole = people().cut(*cut)
    second = np.arange(TOTAL) % 3 == 0
    twice = whole.without(first).without(second[~first])
    assert words(twice) == words(whole.without(first | second))
    assert twice.counts.tolist() == whole.without(first | second).counts.tolist()


@given(mask=MASKS, cut=CUTS)
@settings(max_examples=30)
def test_null_records_keep_their_place_and_their_count(mask, cut):
    whole = people().cut(*cut)
    nulled = whole.nulled(mask)
    assert nulled.counts.tolist() == whole.counts.tolist()
    flat = concatenate([nulled.train(device) for device in range(nulled.devices)])
    assert flat.null.tolist() == mask.tolist()
    for period in range(cut[0]):
        held = nulled.held(0, period)
        assert len(held) == nulled.activity(period)[0]


def test_null_records_add_up_and_survive_removal():
    whole = people()
    first, second = np.arange(TOTAL) < 2, np.arange(TOTAL) == 5
    view = whole.nulled(first).nulled(second).without(np.arange(TOTAL) == 0)
    assert view.train(0).null.tolist() == [True, False, False, False, True, False]


def test_added_devices_come_last_and_are_cut_by_their_own_order():
    whole = people()
    extra = whole.train(0).take(np.arange(4))
    wider = whole.with_devices([extra, extra.take(np.array([2]))]).cut(2, "device")
    assert wider.devices == 5
    assert list(wider.source.names())[3:] == ["added-0", "added-1"]
    assert wider.counts[:3].tolist() == whole.cut(2).counts.tolist()
    assert wider.counts[3:].tolist() == [[2, 2], [1, 0]]
    assert wider.train(3).device.tolist() == [3] * 4
    assert words(wider)[3] == words(whole)[0][:4]


def test_names_of_a_million_devices_are_made_when_asked_for():
    million = home(devices=1_000_000)
    wider = million.with_devices([million.train(0)]).source.names()
    assert len(wider) == 1_000_001
    assert (wider[7], wider[-2], wider[-1]) == ("home-7", "home-999999", "added-0")
    assert wider[999_999:] == ["home-999999", "added-0"]
    with pytest.raises(IndexError):
        wider[1_000_001]


def test_null_flags_of_added_devices_are_kept():
    whole = people()
    canary = whole.train(1).with_(null=np.array([True]))
    for view in (
        whole.with_devices([canary]),
        whole.nulled(np.zeros(TOTAL, bool)).with_devices([canary]),
    ):
        assert view.train(3).null.tolist() == [True]
        assert not view.train(0).null.any()


def test_adding_nobody_changes_nothing_but_the_type():
    whole = people().cut(2)
    same = whole.with_devices([])
    assert same.counts.tolist() == whole.counts.tolist()
    assert same.devices == whole.devices


def test_views_leave_the_held_out_rows_alone():
    whole = people()
    view = whole.without(np.ones(TOTAL, bool)).with_devices([whole.train(0)])
    assert view.test.token_ids.tolist() == whole.test.token_ids.tolist()
    assert view.activity().tolist() == [0, 0, 0, 7]


def test_every_view_has_another_fingerprint():
    whole = people()
    some = np.arange(TOTAL) == 3
    views = [
        whole,
        whole.cut(2),
        whole.cut(2, "clock"),
        whole.without(some),
        whole.nulled(some),
        whole.with_devices([whole.train(0)]),
        whole.with_devices([whole.train(2)]),
    ]
    assert len({view.fingerprint for view in views}) == len(views)
    assert people().fingerprint == whole.fingerprint


def test_a_mask_of_another_length_is_refused():
    for change in (people().without, people().nulled):
        with pytest.raises(ConfigError, match="12 training examples"):
            change(np.ones(3, bool))


@pytest.mark.parametrize("keep", ["current", "window:2", "reservoir:2", "all"])
def test_activity_is_the_number_of_examples_held(keep):
    population = people().cut(3, keep=Keep.parse(keep)).without(np.arange(TOTAL) == 1)
    for period in range(3):
        held = [len(population.held(d, period, seed=4)) for d in range(population.devices)]
        assert population.activity(period).tolist() == held
