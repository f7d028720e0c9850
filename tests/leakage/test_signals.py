"""Signals of utterances: against one utterance at a time, and what a run's log of them holds."""

import numpy as np
import pytest
import torch
from finished_rounds import finished

from fedsim.errors import ConfigError
from fedsim.leakage.panels import example_panel
from fedsim.leakage.signals import (
    LARGEST_LOSS,
    MOST_OTHERS,
    SignalLog,
    others_of,
    panel_examples,
    signals_of,
)
from fedsim.models import BiLSTMTagger
from fedsim.population import Population
from fedsim.population.examples import concatenate
from fedsim.probes import Due
from fedsim.state import pack, unpack
from fedsim.training.batches import tensors

PEOPLE = Population.load("home", devices=8)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=8, hidden=8)
PARAMETERS = {name: p.detach() for name, p in MODEL.named_parameters()}
SAID = concatenate([PEOPLE.train(device) for device in range(8)]).take(np.arange(150))


def log(every=2):
    return SignalLog(model=MODEL, panel=SAID, others=PEOPLE.test, due=Due(every=every))


def test_signals_are_those_of_each_utterance_alone():
    found = signals_of(MODEL, SAID)(PARAMETERS)
    for i in range(0, len(SAID), 7):
        with torch.no_grad():
            joint, words = MODEL.word_losses(PARAMETERS, tensors(SAID, np.array([i])))
        assert found[0, i] == pytest.approx(float(joint), rel=1e-5)
        assert found[1, i] == pytest.approx(float(words.max()), rel=1e-5)


def test_losses_that_are_no_numbers_count_as_large():
    broken = {name: torch.full_like(p, torch.nan) for name, p in PARAMETERS.items()}
    assert (signals_of(MODEL, SAID)(broken) == LARGEST_LOSS).all()


def test_others_are_held_out_few_and_a_function_of_the_seed():
    held_out = concatenate([PEOPLE.dev, PEOPLE.test])
    others = others_of(PEOPLE, 3)
    assert len(others) == min(MOST_OTHERS, len(held_out))
    few = Population.load("home", devices=200)
    first, again, other = (others_of(few, seed) for seed in (1, 1, 2))
    assert len(first) == MOST_OTHERS
    assert np.array_equal(first.token_ids, again.token_ids)
    assert not np.array_equal(first.intents, other.intents)


def test_a_panel_whose_examples_are_null_is_refused():
    panel = example_panel(PEOPLE, seed=0, size=40)
    with pytest.raises(ConfigError, match="from before the panel was applied"):
        panel_examples(panel, panel.applied(PEOPLE))


def test_a_log_keeps_the_rounds_that_are_due_and_has_no_figures():
    mine = log()
    assert [mine(finished(k, parameters=PARAMETERS)) for k in (1, 2, 3)] == [{}] * 3
    assert mine(finished(5, last=True, parameters=PARAMETERS)) == {}
    assert [k for k in range(7) if mine.said(k) is not None] == [2, 5]
    kept = mine.files()["signals"]
    assert kept["rounds"].tolist() == [2, 5]
    assert np.array_equal(kept["panel"][1], signals_of(MODEL, SAID)(PARAMETERS))
    assert kept["others"].shape == (2, 2, len(PEOPLE.test))


def test_a_log_goes_on_from_a_saved_state():
    one, two = log(), log()
    assert one.state_dict()["panel"].shape == (0, 2, len(SAID))
    one(finished(2, parameters=PARAMETERS))
    two.load_state_dict(unpack(*pack(one.state_dict())))
    for mine in (one, two):
        mine(finished(4, parameters=PARAMETERS))
    for name, array in one.files()["signals"].items():
        assert np.array_equal(array, two.files()["signals"][name])


def test_a_log_of_other_rounds_or_utterances_has_another_fingerprint():
    fewer = SignalLog(
        model=MODEL, panel=SAID.take(np.arange(9)), others=PEOPLE.test, due=Due(every=2)
    )
    assert log().fingerprint == log().fingerprint
    assert len({log().fingerprint, log(every=3).fingerprint, fewer.fingerprint}) == 3
