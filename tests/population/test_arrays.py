"""Claims about corpora held as flat arrays, against plain lists of utterances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import MAX_TOKENS, UNKNOWN, UNSEEN, Utterance
from fedsim.population.labels import Inventory
from fedsim.population.population import Population
from fedsim.population.vocabulary import HashedVocabulary

LABELS = Inventory(("on", "off", "ask"), ("room",))
WORDS = HashedVocabulary(buckets=64, pieces=2)


@st.composite
def utterances(draw):
    tokens = tuple(
        draw(st.lists(st.sampled_from(["lamp", "💡", "مصباح", ""]), min_size=1, max_size=4))
    )
    return Utterance(
        tokens=tokens,
        slots=tuple(draw(st.sampled_from(LABELS.slot_labels)) for _ in tokens),
        intent=draw(st.sampled_from(LABELS.intents)),
        user=draw(st.sampled_from([None, "a", "b", "c", "d"])),
        split=draw(st.sampled_from(["train", "train", "dev", "test"])),
        order=draw(st.integers(-5, 5)),
    )


CORPORA = st.lists(utterances(), min_size=1, max_size=30).filter(
    lambda rows: any(row.user is not None and row.split == "train" for row in rows)
)


def plain(rows: list[Utterance]) -> list[tuple]:
    """What an utterance is to a model."""
    return [
        (
            WORDS.encode(row.tokens).tolist(),
            [LABELS.slot_ids[label] for label in row.slots],
            LABELS.intent_ids[row.intent],
        )
        for row in rows
    ]


def unpacked(examples) -> list[tuple]:
    """The same, from flat arrays."""
    spans = zip(examples.offsets[:-1], examples.offsets[1:], strict=True)
    return [
        (examples.token_ids[a:b].tolist(), examples.slots[a:b].tolist(), int(intent))
        for (a, b), intent in zip(spans, examples.intents, strict=True)
    ]


@given(rows=CORPORA, by=st.sampled_from(["device", "clock"]), periods=st.integers(1, 4))
@settings(max_examples=60)
def test_devices_hold_their_own_training_rows_in_order(rows, by, periods):
    source = ArraySource.build(rows, LABELS, WORDS)
    ordered = sorted(rows, key=lambda row: row.order)
    for device, name in enumerate(source.names()):
        own = [row for row in ordered if row.user == name and row.split == "train"]
        held = source.train(device, periods, by)
        assert own and unpacked(held) == plain(own)
        assert (held.device == device).all()
        assert (np.diff(held.period) >= 0).all()
        counts = np.bincount(held.period, minlength=periods)
        assert source.counts(periods, by)[device].tolist() == counts.tolist()
    trains = {row.user for row in rows if row.split == "train"} - {None}
    assert set(source.names()) == trains


@given(
    rows=CORPORA, split=st.sampled_from(["dev", "test"]), by=st.sampled_from(["device", "clock"])
)
@settings(max_examples=60)
def test_held_out_rows_are_all_kept_and_name_their_device(rows, split, by):
    source = ArraySource.build(rows, LABELS, WORDS)
    device = {name: i for i, name in enumerate(source.names())}
    expected = sorted(
        (UNKNOWN if row.user is None else device.get(row.user, UNSEEN), *map(str, row_plain))
        for row, row_plain in zip(rows, plain(rows), strict=True)
        if row.split == split
    )
    held = source.held_out(split, 3, by)
    found = sorted((int(d), *map(str, e)) for d, e in zip(held.device, unpacked(held), strict=True))
    assert found == expected
    if by == "device":
        assert ((held.period == -1) == (held.device == UNKNOWN)).all()


def said(user, split="train", order=0, tokens=("x",)) -> Utterance:
    return Utterance(tokens, ("O",) * len(tokens), "on", user, split, order)


def test_periods_of_a_person_are_cut_over_all_that_person_said():
    # Ten rows of one person, the test rows among them: halves are by rows, not by training rows.
    rows = [said("a", "test" if i < 4 else "train", i) for i in range(10)]
    source = ArraySource.build(rows, LABELS, WORDS)
    assert source.counts(2, "device").tolist() == [[1, 5]]
    assert source.held_out("test", 2, "device").period.tolist() == [0, 0, 0, 0]


def test_clock_cuts_the_collection_not_the_person():
    rows = [said("early", order=i) for i in range(4)] + [
        said("late", order=9 + i) for i in range(4)
    ]
    source = ArraySource.build(rows, LABELS, WORDS)
    assert source.counts(2, "clock").tolist() == [[4, 0], [0, 4]]
    assert source.counts(2, "device").tolist() == [[2, 2], [2, 2]]


def test_devices_are_numbered_by_their_first_row_in_order():
    rows = [said("b", order=3), said("a", order=1), said("c", "dev", order=0), said("a", order=7)]
    assert ArraySource.build(rows, LABELS, WORDS).names() == ("a", "b")


def test_training_rows_of_nobody_are_left_out():
    rows = [said("a"), said(None), said(None, "dev")]
    source = ArraySource.build(rows, LABELS, WORDS)
    assert len(source.examples) == 2
    assert source.held_out("dev", 1, "device").device.tolist() == [UNKNOWN]


def test_long_utterances_are_cut_and_counted():
    source = ArraySource.build([said("a", tokens=("x",) * 10_000), said("a")], LABELS, WORDS)
    assert sorted(source.examples.lengths.tolist()) == [1, MAX_TOKENS]
    assert source.cut_tokens == 1


def test_a_corpus_in_which_nobody_trains_is_refused():
    with pytest.raises(ConfigError, match="no training row has a user"):
        ArraySource.build([said(None), said("a", "test")], LABELS, WORDS)


def test_fingerprint_sees_every_part_of_a_row():
    base = said("a", order=1)
    rows = [base, said("b", order=2, tokens=("z",))]
    changes = [
        {"tokens": ("y",)},
        {"slots": ("B-room",)},
        {"intent": "off"},
        {"split": "test"},
        {"order": 3},
        {"user": "b"},
        {"user": "c"},
    ]
    prints = {ArraySource.build(rows, LABELS, WORDS).fingerprint()}
    for change in changes:
        changed = [base._replace(**change), rows[1]]
        prints.add(ArraySource.build(changed, LABELS, WORDS).fingerprint())
    assert len(prints) == 1 + len(changes)
    assert ArraySource.build(list(rows), LABELS, WORDS).fingerprint() in prints


def test_a_population_of_one_has_activity():
    source = ArraySource.build([said("a")], LABELS, WORDS)
    one = Population(name="one", source=source, inventory=LABELS, vocabulary=WORDS)
    assert one.activity().tolist() == [1]
    assert one.cut(3).counts.tolist() == [[1, 0, 0]]
    assert len(one.test) == 0
