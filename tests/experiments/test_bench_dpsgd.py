"""The benchmark trains the same model on both sides; no claim here is on time."""

import json

import pytest
import torch

from experiments.bench_dpsgd import MODELS, batch_of, bench_dpsgd, tagger_and_plain
from fedsim import ConfigError


@pytest.mark.parametrize("model", MODELS)
def test_both_sides_are_the_same_model(model):
    tagger, plain = tagger_and_plain(model)
    batch = batch_of(3)
    ours, theirs = tagger(batch).mean(), plain(batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.backward()
    for one, other in (
        (tagger.embedding, plain.embedding.weight),
        (tagger.slot_weight, plain.slot.weight),
    ):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_a_tiny_run_states_every_line_and_budget():
    measured = bench_dpsgd(batch_sizes=[1, 16], models=["BiLSTM"], threads=[1], steps=1, repeats=1)
    contents = json.loads(measured.json())
    assert len(contents["measurements"]) == 4
    assert [b["budget"] for b in contents["budgets"]] == [2.0, 1.15]
    assert contents["budgets"][0]["value"] > 0
    assert contents["budgets"][1]["met"] is None


def test_what_cannot_be_timed_is_refused():
    with pytest.raises(ConfigError, match="steps is 0"):
        bench_dpsgd(steps=0)
    with pytest.raises(ConfigError, match="model is 'rnn'"):
        bench_dpsgd(models=["rnn"])
