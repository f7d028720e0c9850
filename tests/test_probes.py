"""Claims about what is read off a finished round, against seqeval and loops."""

from dataclasses import replace

import finished_rounds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score

from fedsim.plan import Scores
from fedsim.population.examples import UNKNOWN, UNSEEN, Examples
from fedsim.population.labels import Inventory
from fedsim.privacy.spent import no_privacy
from fedsim.probes import (
    Accuracy,
    DevAccuracy,
    Due,
    Forgetting,
    activity_deciles,
)

LABELS = Inventory(("a", "b", "c"), ("x", "y"))
TAGS = LABELS.slot_labels


def offsets_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def utterances(lengths, device=None, period=None, seed=0):
    draw = np.random.default_rng(seed)
    n, words = len(lengths), int(np.sum(lengths))
    return Examples(
        token_ids=np.ones((words, 1), np.int32),
        slots=draw.integers(0, len(TAGS), words).astype(np.int16),
        offsets=offsets_of(lengths),
        intents=draw.integers(0, 3, n).astype(np.int16),
        device=np.array(device if device is not None else [0] * n, np.int32),
        period=np.array(period if period is not None else [0] * n, np.int16),
        null=np.zeros(n, bool),
    )


def finished(scores, round=1, period=0, **fields):
    """A round whose new model says `scores`, or what `score` returns."""
    return finished_rounds.finished(round, period, **{"score": lambda: scores} | fields)


def slot_f1(gold, said, offsets):
    """F1 of the spans in words that are labelled so; None without any span."""
    test = replace(utterances(np.diff(offsets)), slots=gold)
    scores = Scores(test.intents, said, np.zeros(len(test), np.float32))
    return Accuracy(test=test, decile=np.array([1]), due=Due(every=1))(finished(scores))["slot_f1"]


def perfect(test):
    return Scores(test.intents.copy(), test.slots.copy(), np.ones(len(test), np.float32))


@st.composite
def labelled(draw):
    """Sentences with gold and predicted tags; stray I- tags and empty sentences among them."""
    tags = st.integers(0, len(TAGS) - 1)
    pairs = st.lists(st.tuples(tags, tags), min_size=0, max_size=7)
    return draw(st.lists(pairs, min_size=1, max_size=6))


@given(labelled())
@settings(max_examples=400, deadline=None)
def test_slot_f1_is_that_of_seqeval(sentences):
    gold = [[TAGS[g] for g, _ in sentence] for sentence in sentences]
    said = [[TAGS[s] for _, s in sentence] for sentence in sentences]
    flat = np.array([pair for sentence in sentences for pair in sentence], np.int16).reshape(-1, 2)
    offsets = offsets_of([len(sentence) for sentence in sentences])
    spans = any(tag != "O" for row in gold + said for tag in row)
    wanted = pytest.approx(f1_score(gold, said, zero_division=0), abs=1e-12) if spans else None
    assert slot_f1(flat[:, 0], flat[:, 1], offsets) == wanted


@pytest.mark.parametrize(
    ("gold", "said", "offsets", "wanted"),
    [
        (["B-x", "I-x"], ["I-x", "I-x"], [0, 2], 1.0),
        (["B-x", "I-x"], ["B-x", "B-x"], [0, 2], 0.0),
        (["B-x", "I-x"], ["B-x", "I-y"], [0, 2], 0.0),
        (["B-x", "I-x"], ["B-x", "I-x"], [0, 1, 2], 1.0),
        (["B-x", "O"], ["B-x", "I-x"], [0, 1, 2], 2 / 3),
        (["O", "O"], ["O", "O"], [0, 2], None),
    ],
)
def test_slot_f1_of_cases_by_hand(gold, said, offsets, wanted):
    gold, said = (np.array([LABELS.slot_ids[tag] for tag in tags]) for tags in (gold, said))
    assert slot_f1(gold, said, np.array(offsets)) == (wanted and pytest.approx(wanted))


@st.composite
def measurements(draw):
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    devices = draw(st.integers(1, 4))
    owner = st.integers(UNKNOWN, devices - 1)
    device = draw(st.lists(owner, min_size=len(lengths), max_size=len(lengths)))
    test = utterances(lengths, device, seed=draw(st.integers(0, 99)))
    noise = np.random.default_rng(draw(st.integers(0, 99)))
    wrong = noise.random(len(test)) < 0.4
    intents = np.where(wrong, (test.intents + 1) % 3, test.intents)
    slots = np.where(noise.random(len(test.slots)) < 0.2, 0, test.slots)
    return test, devices, Scores(intents, slots, noise.random(len(test)).astype(np.float32))


def mean(values):
    return None if len(values) == 0 else pytest.approx(float(np.mean(values)))


@given(measurements())
@settings(max_examples=100, deadline=None)
def test_every_accuracy_is_that_of_a_loop(case):
    test, devices, said = case
    decile = activity_deciles(np.arange(devices))
    figures = Accuracy(test=test, decile=decile, due=Due(every=1))(finished(said))
    intent, exact = [], []
    for i in range(len(test)):
        words = slice(test.offsets[i], test.offsets[i + 1])
        intent.append(said.intents[i] == test.intents[i])
        exact.append(intent[i] and list(said.slots[words]) == list(test.slots[words]))
    owner = test.device.tolist()
    assert figures["test_loss"] == mean(said.losses)
    for name, right in (("intent_accuracy", intent), ("exact_match", exact)):

        def of(chosen, right=right):
            return [r for r, d in zip(right, owner, strict=True) if chosen(d)]

        assert figures[name] == mean(right)
        each = [np.mean(of(lambda d, k=k: d == k)) for k in range(devices) if k in owner]
        assert figures[f"devices/{name}"] == mean(each)
        for k in range(1, 11):
            assert figures[f"deciles/{name}_{k}"] == mean(
                of(lambda d, k=k: d >= 0 and decile[d] == k)
            )
        assert figures[f"unseen/{name}"] == mean(of(lambda d: d == UNSEEN))
    assert figures["unseen/utterances"] == owner.count(UNSEEN)


def test_people_nobody_knows_are_not_people_never_seen():
    test = utterances([1, 1, 1], device=[UNKNOWN, UNSEEN, 0])
    said = perfect(test)
    said.intents[1] = (said.intents[1] + 1) % 3
    figures = Accuracy(test=test, decile=np.array([1]), due=Due(every=1))(finished(said))
    assert (figures["unseen/intent_accuracy"], figures["unseen/utterances"]) == (0.0, 1)
    assert figures["devices/intent_accuracy"] == 1.0
    assert figures["intent_accuracy"] == pytest.approx(2 / 3)


def test_a_population_of_one_with_unknown_people_in_the_test_set_is_measured():
    test = utterances([2, 1], device=[UNKNOWN, 0])
    figures = Accuracy(test=test, decile=np.array([1]), due=Due(every=1))(finished(perfect(test)))
    assert figures["deciles/intent_accuracy_1"] == 1.0


def test_a_heavy_person_counts_once_in_the_mean_over_devices():
    test = utterances([1] * 10, device=[0] * 9 + [1])
    said = perfect(test)
    said.intents[9] = (said.intents[9] + 1) % 3
    figures = Accuracy(test=test, decile=np.array([10, 1]), due=Due(every=1))(finished(said))
    assert figures["intent_accuracy"] == pytest.approx(0.9)
    assert figures["devices/intent_accuracy"] == pytest.approx(0.5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_deciles_follow_activity_and_are_as_equal_as_can_be(activity):
    decile = activity_deciles(np.array(activity))
    sizes = [int((decile == k).sum()) for k in range(1, 11)]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == len(activity)
    order = sorted(range(len(activity)), key=lambda d: (activity[d], d))
    assert sorted(decile) == [decile[d] for d in order]


def test_no_devices_have_no_deciles():
    assert len(activity_deciles(np.zeros(0, np.int64))) == 0


def answers(test, right_per_period):
    """Scores with this many right intents in each period."""
    said = perfect(test)
    for period, right in enumerate(right_per_period):
        rows = np.flatnonzero(test.period == period)[right:]
        said.intents[rows] = (said.intents[rows] + 1) % 3
    return said


def test_forgetting_is_the_best_so_far_minus_the_present_averaged_over_past_periods():
    test = utterances([1] * 8, period=[0] * 4 + [1] * 2 + [2] * 2)
    probe = Forgetting(test=test, periods=3, due=Due(every=1))
    history = [
        (0, (3, 0, 0), None),
        (0, (4, 0, 0), None),
        (1, (2, 2, 0), 0.5),
        (1, (1, 1, 0), 0.75),
        (2, (3, 1, 2), (0.25 + 0.5) / 2),
        (2, (4, 2, 2), 0.0),
    ]
    for round, (period, right, wanted) in enumerate(history, start=1):
        figures = probe(finished(answers(test, right), round, period))
        assert figures["forgetting/intent_accuracy"] == wanted
        assert figures["periods/intent_accuracy_1"] == right[0] / 4
        assert figures["periods/intent_accuracy_3"] == right[2] / 2


def test_forgetting_goes_on_from_a_saved_state():
    test = utterances([1] * 6, period=[0] * 4 + [1] * 2)
    one, two = (Forgetting(test=test, periods=2, due=Due(every=1)) for _ in range(2))
    one(finished(answers(test, (4, 0)), 1, 0))
    saved = one.state_dict()
    two.load_state_dict(saved)
    later = finished(answers(test, (1, 2)), 2, 1)
    assert one(later) == two(later)
    assert saved["best"].tolist() == [1.0, 0.0]


def test_a_period_without_test_utterances_is_not_measured():
    test = utterances([1] * 2, period=[1, 1])
    probe = Forgetting(test=test, periods=2, due=Due(every=1))
    figures = probe(finished(perfect(test), 1, 1))
    assert figures["periods/intent_accuracy_1"] is None
    assert figures["forgetting/intent_accuracy"] is None


def test_every_kth_round_and_the_last_are_measured():
    due = Due(every=3)
    measured = [r for r in range(1, 9) if due(finished(None, r, last=r == 8))]
    assert measured == [3, 6, 8]


def test_a_round_that_is_not_due_is_not_scored():
    def never():
        raise AssertionError("scored")

    test = utterances([1, 2])
    round = finished(None, 1, score=never)
    for probe in (
        Accuracy(test=test, decile=np.array([1]), due=Due(every=2)),
        Forgetting(test=test, periods=1, due=Due(every=2)),
    ):
        assert probe(round) == {}


def test_a_round_is_scored_once_for_all_probes():
    test, calls = utterances([1, 2]), []
    round = finished(None, score=lambda: calls.append(1) or perfect(test))
    for _ in range(2):
        Accuracy(test=test, decile=np.array([1]), due=Due(every=1))(round)
    assert len(calls) == 1


def test_without_test_utterances_nothing_is_claimed():
    test = utterances([1]).take(np.array([], np.int64))
    assert Accuracy(test=test, decile=np.array([1]), due=Due(every=1))(finished(None)) == {}


def test_without_a_mechanism_every_epsilon_is_infinite():
    figures = no_privacy(finished(None))
    assert figures.pop("privacy_unit") == "none"
    assert set(figures.values()) == {float("inf")}


def test_slot_f1_and_counts_are_broken_down_like_accuracy():
    test = utterances([2, 1, 1, 1], device=[0, 0, 1, UNSEEN])
    test = test.with_(slots=np.array([1, 2, 0, 1, 3], np.int16))
    said = perfect(test)
    said.slots[3] = 0
    decile = np.array([1, 10])
    figures = Accuracy(test=test, decile=decile, due=Due(every=1))(finished(said))
    assert figures["deciles/slot_f1_1"] == 1.0
    assert figures["deciles/slot_f1_10"] == 0.0
    assert figures["deciles/slot_f1_2"] is None
    assert figures["devices/slot_f1"] == 0.5
    assert figures["unseen/slot_f1"] == 1.0


def test_slot_f1_is_not_measured_where_there_is_no_span():
    test = utterances([2, 1])
    test = test.with_(slots=np.zeros(3, np.int16))
    figures = Accuracy(test=test, decile=np.array([1]), due=Due(every=1))(finished(perfect(test)))
    assert figures["slot_f1"] is None and figures["devices/slot_f1"] is None
    assert figures["exact_match"] == 1.0


def test_counts_stand_beside_the_deciles():
    test = utterances([2, 1, 1, 1], device=[0, 0, 1, UNSEEN])
    decile = np.array([1, 10])
    figures = Accuracy(test=test, decile=decile, due=Due(every=1))(finished(perfect(test)))
    assert [figures[f"deciles/utterances_{k}"] for k in (1, 2, 10)] == [2, 0, 1]


def test_dev_is_measured_at_the_end_and_only_there():
    dev = utterances([2, 1])
    probe = DevAccuracy(dev=dev)
    assert probe(finished(None)) == {}
    last = replace(finished(None, last=True), score_dev=lambda: perfect(dev))
    assert probe(last)["dev/intent_accuracy"] == 1.0
