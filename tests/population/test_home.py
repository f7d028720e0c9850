"""Claims about the built-in corpus: who its people are, when they speak, and what they say."""

import pickle
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.population import home as home_module
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import UNSEEN, Examples, concatenate
from fedsim.population.home import HELD_OUT_CAP, HomeSource, home
from fedsim.population.home_grammar import grammar
from fedsim.population.home_people import MOST_ACTIVE
from fedsim.population.periods import By
from fedsim.population.vocabulary import CorpusVocabulary, HashedVocabulary

CUTS: list[tuple[int, By]] = [(1, "device"), (5, "device"), (5, "clock"), (64, "clock")]


def source_of(devices: int, seed: int = 0) -> HomeSource:
    return HomeSource(devices=devices, seed=seed, vocabulary=HashedVocabulary())


def people_of(devices: int) -> int:
    """Everybody, those who never train included."""
    return devices + round(devices * 5 / 95)


def same(first: Examples, second: Examples, *names: str) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def in_text(source: HomeSource, person: int) -> list[tuple[str, str]]:
    return [(" ".join(u.tokens), u.intent) for u in source.utterances(person)]


@pytest.fixture(scope="module")
def corpus() -> HomeSource:
    return source_of(1000)


@pytest.fixture(scope="module")
def everything(corpus: HomeSource) -> Examples:
    """All training examples, with fifths of the clock as periods."""
    return concatenate([corpus.train(device, 5, "clock") for device in range(corpus.devices)])


# Encoded arrays against what is said in words.


@pytest.mark.parametrize("periods", [1, 4])
def test_encoded_devices_equal_their_words_read_as_a_corpus(periods):
    source = source_of(30)
    said = [row for person in range(people_of(30)) for row in source.utterances(person)]
    oracle = ArraySource.build(said, grammar().inventory, HashedVocabulary())
    assert sorted(oracle.names()) == sorted(source.names())
    for name in source.names():
        mine = source.train(list(source.names()).index(name), periods, "device")
        theirs = oracle.train(list(oracle.names()).index(name), periods, "device")
        assert same(mine, theirs, "token_ids", "slots", "offsets", "intents", "period", "null")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_held_out_utterances_are_those_that_people_say_in_that_split(split):
    source = source_of(30)
    held = source.held_out(split, 3, "device")
    words: list[str] = []
    owners: list[int] = []
    for person in range(people_of(30)):
        for row in source.utterances(person):
            if row.split == split:
                words.extend(row.tokens)
                owners.append(person if person < 30 else UNSEEN)
    assert np.array_equal(held.token_ids, HashedVocabulary().encode(words))
    assert held.device.tolist() == owners


def test_any_vocabulary_can_be_asked_for():
    words = CorpusVocabulary.build([["play", "lights"]])
    people = home(devices=3, vocabulary=words)
    assert people.vocabulary is words
    assert people.train(0).token_ids.shape[1] == 1


# Counts, periods and splits.


@pytest.mark.parametrize(("periods", "by"), CUTS)
def test_counts_are_what_devices_hold(periods, by):
    source = source_of(60, seed=3)
    counts = source.counts(periods, by)
    assert counts.shape == (60, periods) and counts.dtype == np.int64
    for device in range(60):
        period = source.train(device, periods, by).period
        assert (np.diff(period) >= 0).all()
        assert np.array_equal(np.bincount(period, minlength=periods), counts[device])


def test_every_ten_utterances_in_a_row_hold_eight_one_one(corpus):
    heavy = int(np.argmax(corpus.counts(1, "device")))
    splits = [row.split for row in corpus.utterances(heavy)]
    assert len(splits) > 500
    for first in range(len(splits) - 9):
        window = Counter(splits[first : first + 10])
        assert window == {"train": 8, "dev": 1, "test": 1}


@pytest.mark.parametrize("seed", range(5))
def test_every_device_trains_on_something(seed):
    assert source_of(5000, seed).counts(1, "device").min() >= 1


def test_an_empty_period_is_ordinary():
    source = source_of(50)
    counts = source.counts(40, "device")
    device, period = np.argwhere(counts == 0)[0]
    people = home(devices=50).cut(40)
    assert len(people.held(int(device), int(period))) == 0


def test_time_runs_forward_within_a_person(corpus):
    orders = [row.order for row in corpus.utterances(int(np.argmax(corpus.counts(1, "device"))))]
    assert orders == sorted(set(orders)) and orders[0] >= 0 and orders[-1] < 1_000_000


# Who the people are.


def test_activity_is_heavy_tailed():
    activity = np.sort(source_of(20_000).counts(1, "device")[:, 0] / 0.8)
    assert 8 <= np.median(activity) <= 11
    assert activity[-2000:].sum() > 0.5 * activity.sum()
    assert 2000 < activity[-1] <= MOST_ACTIVE * 1.01


def test_five_percent_of_people_are_only_in_test(corpus):
    unseen = range(1000, people_of(1000))
    assert len(unseen) == 53
    for person in unseen:
        assert {row.split for row in corpus.utterances(person)} == {"test"}
    assert (corpus.held_out("test", 1, "device").device == UNSEEN).any()
    assert (corpus.held_out("dev", 1, "device").device >= 0).all()


def test_people_ask_for_different_things(corpus, everything):
    overall = np.bincount(everything.intents, minlength=33) / len(everything)
    own = []
    for device in np.flatnonzero(corpus.counts(1, "device")[:, 0] > 50):
        intents = corpus.train(int(device), 1, "device").intents
        own.append(np.bincount(intents, minlength=33).max() / len(intents))
    assert np.mean(own) > 3 * overall.max()


def test_people_have_habits_of_their_own(corpus):
    heavy = np.argsort(-corpus.counts(1, "device")[:, 0])[:20]
    openings = []
    for person in heavy:
        starts = Counter(text.split()[0] for text, _ in in_text(corpus, int(person)))
        openings.append({word for word, count in starts.items() if count > 0.15 * starts.total()})
    assert len({frozenset(words) for words in openings}) > 10


def test_device_is_the_same_person_in_any_number_of_devices():
    few, many = source_of(20), source_of(2000)
    assert in_text(few, 7) == in_text(many, 7)
    assert in_text(few, 20) == in_text(many, 2000)
    assert np.array_equal(few.counts(5, "clock"), many.counts(5, "clock")[:20])


def test_seed_and_device_name_what_is_said():
    assert in_text(source_of(9), 4) == in_text(source_of(9), 4)
    assert in_text(source_of(9), 4) != in_text(source_of(9, seed=1), 4)
    assert in_text(source_of(9), 4) != in_text(source_of(9), 5)


# What changes over time.


def test_intents_appear_and_fade(everything):
    names = grammar().inventory.intents
    share = np.stack(
        [
            np.bincount(everything.intents[everything.period == p], minlength=33)
            / (everything.period == p).sum()
            for p in range(5)
        ]
    )
    for name in ("car_charge", "order_item", "energy_query"):
        assert share[0, names.index(name)] == 0 and share[4, names.index(name)] > 0.005
    for name in ("play_radio", "lock_door", "traffic_query"):
        assert share[4, names.index(name)] == 0 and share[0, names.index(name)] > 0.005


def test_values_come_and_go(corpus):
    early, late = set(), set()
    for person in range(300):
        for row in corpus.utterances(person):
            if row.order < 200_000:
                early.update(row.tokens)
            if row.order >= 800_000:
                late.update(row.tokens)
    assert "harbour" in early and {"asparagus", "shovel"} <= early - late
    assert {"gingerbread", "cinnamon", "orbit"} <= late - early


def naive_bayes(train: Examples, rows: int) -> np.ndarray:
    """Log-likelihood of vocabulary rows under each intent, (rows, intents), add-one smoothed."""
    counts = np.full((rows, 33), 0.1)
    owner = np.repeat(train.intents, train.lengths)
    for piece in train.token_ids.T:
        np.add.at(counts, (piece, owner), 1)
    return np.log(counts / counts.sum(axis=0))


def accuracy(weights: np.ndarray, test: Examples) -> float:
    scores = np.add.reduceat(weights[test.token_ids].sum(axis=1), test.offsets[:-1])
    return float((scores.argmax(axis=1) == test.intents).mean())


def test_corpus_is_learnable_not_trivial_and_drifts(corpus, everything):
    test = corpus.held_out("test", 5, "clock")
    last = test.take(test.period == 4)
    whole = accuracy(naive_bayes(everything, 8193), test)
    first_fifth = naive_bayes(everything.take(everything.period == 0), 8193)
    last_fifth = naive_bayes(everything.take(everything.period == 4), 8193)
    assert 0.8 < whole < 0.97
    assert accuracy(first_fifth, last) < accuracy(last_fifth, last) - 0.05


# Held-out sets at any size.


def test_held_out_sets_are_capped_with_a_fifth_for_unseen_people():
    source = source_of(20_000)
    dev, test = source.held_out("dev", 5, "clock"), source.held_out("test", 5, "clock")
    assert len(dev) == len(test) == HELD_OUT_CAP
    assert (test.device == UNSEEN).sum() == HELD_OUT_CAP // 5
    assert (dev.device >= 0).all()
    # People come in random order, so they are not the first ones.
    assert np.median(test.device[test.device >= 0]) > 5000


def test_held_out_sets_are_the_same_under_every_cut():
    source = source_of(3000)
    one = source.held_out("test", 1, "device")
    for periods, by in CUTS:
        other = source.held_out("test", periods, by)
        assert same(one, other, "token_ids", "slots", "intents", "device")
        assert other.period.min() >= 0 and other.period.max() == periods - 1


def test_what_is_sampled_of_a_person_is_spread_over_its_history(corpus):
    heavy = int(np.argmax(corpus.counts(1, "device")))
    taken = np.zeros(people_of(1000), np.int64)
    taken[heavy] = 10
    examples, owners, positions = corpus._sample(taken, 2)
    assert len(examples) == 10 and set(owners) == {heavy}
    periods = corpus._alone(heavy).period(positions, 5, "device")
    assert np.bincount(periods).tolist() == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("devices", [1, 2, 9, 10])
def test_few_people_are_a_corpus_too(devices):
    people = home(devices=devices).cut(3)
    assert people.counts.shape == (devices, 3)
    assert len(people.train(devices - 1)) == people.counts[devices - 1].sum()
    assert (people.test.device == UNSEEN).any() == (devices >= 10)
    assert len(people.dev.offsets) == len(people.dev) + 1


def test_a_million_devices_cost_seconds():
    began = time.monotonic()
    people = home(devices=1_000_000).cut(5, "clock")
    assert people.activity(2).shape == (1_000_000,)
    assert len(people.test) == len(people.dev) == HELD_OUT_CAP
    names = people.source.names()
    assert len(names) == 1_000_000 and names[999_999] == names[-1] == "home-999999"
    assert names[3:5] == ["home-3", "home-4"]
    assert len(people.train(999_999)) == people.counts[-1].sum()
    # Two seconds on an idle machine.
    assert time.monotonic() - began < 30


# Memory, threads, identity.


def test_memory_of_generated_devices_is_bounded(monkeypatch):
    monkeypatch.setattr(home_module, "CACHED_UTTERANCES", 100)
    source = source_of(200)
    before = [source.train(device, 1, "device") for device in range(200)]
    kept = source._cache._held
    assert sum(len(examples) for examples, _ in kept.values()) == source._cache._utterances <= 100
    for device in (0, 100, 199):
        assert same(source.train(device, 1, "device"), before[device], "token_ids", "intents")


def test_device_asked_for_lately_is_kept(monkeypatch):
    source = source_of(3)
    sizes = source.counts(1, "device")[:, 0]
    monkeypatch.setattr(home_module, "CACHED_UTTERANCES", sizes.sum() - 1)
    for device in (0, 1, 0, 2):
        source.train(device, 1, "device")
    assert 0 in source._cache._held and 1 not in source._cache._held


def test_device_asked_for_again_is_not_generated_again():
    source = source_of(5)
    assert source.train(2, 1, "device").token_ids is source.train(2, 3, "clock").token_ids


def test_threads_get_what_one_thread_gets(monkeypatch):
    monkeypatch.setattr(home_module, "CACHED_UTTERANCES", 500)
    alone, shared = source_of(40), source_of(40)
    asked = [device % 40 for device in range(0, 2000, 7)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda device: shared.train(device, 2, "device"), asked))
    for device, examples in zip(asked, got, strict=True):
        assert same(examples, alone.train(device, 2, "device"), "token_ids", "slots", "period")
    assert shared._cache._utterances == sum(len(e) for e, _ in shared._cache._held.values())


def test_a_copy_says_the_same():
    source = source_of(12)
    source.train(3, 1, "device")
    twin = pickle.loads(pickle.dumps(source))
    assert same(twin.train(3, 1, "device"), source.train(3, 1, "device"), "token_ids", "slots")


def test_fingerprint_names_seed_devices_and_vocabulary():
    prints = {
        source_of(10).fingerprint(),
        source_of(11).fingerprint(),
        source_of(10, seed=1).fingerprint(),
        HomeSource(devices=10, seed=0, vocabulary=HashedVocabulary(64)).fingerprint(),
    }
    assert len(prints) == 4
    assert source_of(10).fingerprint() in prints


def test_views_of_the_population_work():
    people = home(devices=15)
    mask = np.zeros(int(people.starts[-1]), bool)
    mask[people.starts[4]] = True
    assert people.without(mask).counts.sum() == people.counts.sum() - 1
    assert people.with_devices([people.train(0)]).devices == 16
    assert people.nulled(mask).train(4).null.sum() == 1


@pytest.mark.parametrize("devices", [0, -3, 10**12])
def test_no_devices_and_too_many_are_refused(devices):
    with pytest.raises(ConfigError, match=f"devices is {devices}; choose between 1 and 10,000,000"):
        home(devices=devices)
