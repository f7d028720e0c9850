"""Claims about vocabularies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.population.vocabulary import CorpusVocabulary, HashedVocabulary

WORDS = st.lists(st.text(max_size=12), max_size=8)
VOCABULARIES = [
    HashedVocabulary(),
    HashedVocabulary(buckets=7, pieces=2),
    CorpusVocabulary.build([["lamp", "on"], ["lamp"]]),
]


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda v: v.describe())
@given(words=WORDS)
def test_any_word_has_rows_and_padding_is_never_one_of_them(vocabulary, words):
    rows = vocabulary.encode(words)
    assert rows.shape == (len(words), vocabulary.pieces)
    assert rows.dtype == np.int32
    assert ((rows >= 1) & (rows < vocabulary.rows)).all()


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda v: v.describe())
def test_emoji_right_to_left_text_and_broken_surrogates_have_rows(vocabulary):
    assert len(vocabulary.encode(["💡", "مصباح", "\ud800", ""])) == 4


def test_hashed_rows_are_the_same_in_every_process():
    # Written down once: another hash would give every earlier model another meaning.
    assert HashedVocabulary().encode(["lamp"]).tolist() == [[1721, 2760, 5552, 4889]]


def test_hashed_words_of_one_ending_share_a_row():
    words = HashedVocabulary()
    first, second = words.encode(["playing", "raining"])
    assert len(set(first) & set(second)) == 1


def test_corpus_vocabulary_keeps_the_most_frequent_words():
    vocabulary = CorpusVocabulary.build([["b", "a", "c"], ["C", "a"], ["d"]], size=3)
    assert vocabulary.words == ("a", "c", "b")
    assert vocabulary.rows == 5
    assert vocabulary.encode(["a", "A", "d", "never"]).ravel().tolist() == [2, 2, 1, 1]
