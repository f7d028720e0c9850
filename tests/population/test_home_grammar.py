"""Claims about the grammar of the built-in corpus: its phrases, its labels and its drift."""

import string

import numpy as np
import pytest

from fedsim.population.home import HomeSource
from fedsim.population.home_grammar import STEPS, _values, _words, grammar
from fedsim.population.home_phrases import INTENTS, MANNERS, SLOTS
from fedsim.population.vocabulary import HashedVocabulary


@pytest.fixture(scope="module")
def corpus() -> HomeSource:
    return HomeSource(devices=1000, seed=0, vocabulary=HashedVocabulary())


@pytest.mark.parametrize("name", INTENTS)
def test_every_intent_has_several_ways_to_ask_and_known_kinds(name):
    intent = INTENTS[name]
    ways = [w.strip() for w in (intent.ways + "\n" + intent.shortcuts).splitlines() if w.strip()]
    assert 6 <= len(ways) == len(set(ways))
    for way in ways:
        kinds = {kind for _, kind, _, _ in string.Formatter().parse(way) if kind is not None}
        assert kinds <= set(SLOTS)


def test_every_slot_type_is_used_and_some_values_have_several_words():
    text = "".join(intent.ways + intent.shortcuts for intent in INTENTS.values())
    for name, kind in SLOTS.items():
        assert "{" + name + "}" in text
        values = [v.strip() for v in f"{kind.steady},{kind.passing}".split(",") if v.strip()]
        assert len(values) == len(set(values)) >= 8
        assert name in ("list", "contact") or any(" " in value for value in values)


def test_labels_are_well_formed_spans_and_manners_are_outside(corpus):
    for row in [row for person in range(50) for row in corpus.utterances(person)]:
        assert len(row.slots) == len(row.tokens) >= 1
        for before, label in zip(("O", *row.slots), row.slots, strict=False):
            if label.startswith("I-"):
                assert before[2:] == label[2:]
            assert label[2:] not in MANNERS


def test_slot_labels_spell_values_of_their_type(corpus):
    values = {
        name: {v.strip() for v in f"{kind.steady},{kind.passing}".split(",")}
        for name, kind in SLOTS.items()
    }
    for row in [row for person in range(50) for row in corpus.utterances(person)]:
        spans: list[tuple[str, str]] = []
        for word, label in zip(row.tokens, row.slots, strict=True):
            if label.startswith("B-"):
                spans.append((label[2:], word))
            elif label.startswith("I-"):
                spans[-1] = (spans[-1][0], spans[-1][1] + " " + word)
        assert all(value in values[kind] for kind, value in spans)


def test_the_same_words_can_mean_different_things(corpus):
    meant: dict[str, set[str]] = {}
    for person in range(400):
        for row in corpus.utterances(person):
            meant.setdefault(" ".join(row.tokens), set()).add(row.intent)
    assert meant["turn it off"] >= {"lights_off", "device_off"}
    assert sum(len(intents) > 1 for intents in meant.values()) > 20


def test_cumulative_rows_stay_within_their_kind_and_step():
    table = grammar()
    rows = table.values.reshape(-1, table.width)
    number = np.arange(len(rows))
    assert len(rows) == len(table.loyalty) * STEPS
    assert (np.diff(rows, axis=1) >= 0).all()
    assert (rows[:, 0] >= number).all()
    for i, kind in enumerate((MANNERS | SLOTS).values()):
        values = len(_values(kind))
        own = slice(i * STEPS, (i + 1) * STEPS)
        assert np.abs(rows[own, values - 1] - number[own] - 1).max() < 1e-12


def test_passing_values_are_out_of_use_outside_their_time():
    table = grammar()
    song = list(MANNERS | SLOTS).index("song")
    rows = table.values.reshape(-1, STEPS, table.width)[song] - np.arange(STEPS)[:, None]
    rows = rows - song * STEPS
    first, last = len(_words(SLOTS["song"].steady)), len(_values(SLOTS["song"])) - 1
    share = np.diff(rows, axis=1, prepend=0)
    assert share[0, first] > 0 and abs(share[-1, first]) == 0
    assert share[-1, last] > 0 and abs(share[0, last]) == 0
