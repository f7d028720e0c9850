"""Claims about scoring held-out utterances, against one utterance at a time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fedsim.models import BiLSTMTagger
from fedsim.population.examples import Examples
from fedsim.rng import torch_generator
from fedsim.training.batches import tensors
from fedsim.training.scoring import CHUNK, Scorer

ROWS, INTENTS, SLOT_LABELS = 50, 4, 5


def utterances(count, seed=0):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 9, count)
    words = int(lengths.sum())
    return Examples(
        token_ids=draw.integers(1, ROWS, (words, 2)).astype(np.int32),
        slots=draw.integers(0, SLOT_LABELS, words).astype(np.int16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        intents=draw.integers(0, INTENTS, count).astype(np.int16),
        device=np.zeros(count, np.int32),
        period=np.zeros(count, np.int16),
        null=np.zeros(count, bool),
    )


@pytest.fixture(scope="module")
def model():
    tagger = BiLSTMTagger(
        rows=ROWS, intents=INTENTS, slot_labels=SLOT_LABELS, embedding=6, hidden=5
    )
    tagger.initialise(torch_generator(0, "model"))
    return tagger


def parameters_of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("count", [1, CHUNK, 2 * CHUNK + 9])
def test_scores_are_those_of_utterances_one_by_one_in_their_own_order(model, count):
    examples, parameters = utterances(count), parameters_of(model)
    scores = Scorer(model, examples)(parameters)
    for i in range(count):
        with torch.no_grad():
            alone = model.predict(parameters, tensors(examples, np.array([i])))
        start, stop = examples.offsets[i : i + 2]
        assert scores.intents[i] == alone.intents[0]
        assert scores.slots[start:stop].tolist() == alone.slots[0].tolist()
        assert scores.losses[i] == pytest.approx(float(alone.losses[0]), rel=1e-5)


def test_scores_do_not_depend_on_the_worker_pool(model):
    examples, parameters = utterances(3 * CHUNK), parameters_of(model)
    inline = Scorer(model, examples)(parameters)
    with ThreadPoolExecutor(3) as pool:
        threaded = Scorer(model, examples, pool.map)(parameters)
    for one, other in zip(inline, threaded, strict=True):
        assert np.array_equal(one, other)


def test_a_scorer_follows_the_parameters_it_is_called_with(model):
    scorer = Scorer(model, utterances(20))
    parameters = parameters_of(model)
    first = scorer(parameters).losses
    scorer({name: 2 * p for name, p in parameters.items()})
    assert np.array_equal(scorer(parameters).losses, first)
    assert not np.array_equal(scorer({n: 2 * p for n, p in parameters.items()}).losses, first)


def test_nothing_to_score_gives_empty_scores(model):
    scores = Scorer(model, utterances(5).take(np.array([], np.int64)))(parameters_of(model))
    assert [len(part) for part in scores] == [0, 0, 0]
