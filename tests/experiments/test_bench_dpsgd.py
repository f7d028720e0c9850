"""The benchmark trains the same model on both sides; no claim here is on time."""

import json

import pytest
import torch

from experiments.bench_dpsgd import bench_dpsgd
from experiments.dpsgd_steps import MODELS, batch_of, peak_bytes, steps_of, tagger_and_plain
from fedsim import ConfigError
from fedsim.training.kernel import clipped_gradient
from fedsim.training.one_by_one import one_by_one


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


@pytest.mark.parametrize("model", MODELS)
def test_the_loop_over_examples_gives_the_same_sum(model):
    tagger, _ = tagger_and_plain(model)
    own, batch = dict(tagger.named_parameters()), batch_of(3)
    own = {name: p.detach().double() for name, p in own.items()}
    batch = dict(batch) | {"weight": torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)}
    one, other = (way(tagger.losses, own, batch, 1.0) for way in (one_by_one, clipped_gradient))
    for name in own:
        torch.testing.assert_close(one.gradients[name], other.gradients[name])
    met = batch["weight"] > 0
    for mine, yours in zip(one[1:], other[1:], strict=True):
        torch.testing.assert_close(mine[met], yours[met])


def test_every_way_takes_part_and_runs():
    steps = steps_of("BiLSTM", 2)
    assert list(steps) == ["plain", "exact DP", "Opacus hooks", "Opacus ghost", "naive loop"]
    assert all(peak_bytes(run) > 0 for run in steps.values())


def test_memory_is_the_most_at_a_time():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(1000)

    assert peak_bytes(one_after_the_other) == 4000
    assert peak_bytes(lambda: [torch.empty(1000) for _ in range(3)]) == 12000


def test_a_tiny_run_states_every_line_and_budget():
    measured = bench_dpsgd(batch_sizes=[1, 16], models=["BiLSTM"], threads=[1], steps=1, repeats=1)
    contents = json.loads(measured.json())
    assert len(contents["measurements"]) == 10
    assert [b["budget"] for b in contents["budgets"]] == [2.0, 1.15, 1.25]
    assert contents["budgets"][0]["value"] > 0
    assert [b["met"] for b in contents["budgets"][1:]] == [None, None]
    assert all(m["peak_ratio"] > 0 for m in contents["measurements"] if m["against"])
    assert "of plain, memory" in measured.markdown()


def test_in_bfloat16_both_sides_are_and_no_budget_is_judged():
    measured = bench_dpsgd(
        batch_sizes=[16],
        threads=[1],
        steps=1,
        repeats=1,
        rivals=False,
        precision="bfloat16",
    )
    names = [m.name for m in measured.measurements]
    assert names[:2] == [
        f"BiLSTM, batch 16, 1 thread, bfloat16: {n}" for n in ("plain", "exact DP")
    ]
    assert len(names) == 4 and measured.settings["precision"] == "bfloat16"
    assert all(budget.value is None for budget in measured.budgets)


def test_what_cannot_be_timed_is_refused():
    with pytest.raises(ConfigError, match="precision is bfloat16, in which Opacus"):
        bench_dpsgd(precision="bfloat16")
    with pytest.raises(ConfigError, match="steps is 0"):
        bench_dpsgd(steps=0)
    with pytest.raises(ConfigError, match="model is 'rnn'"):
        bench_dpsgd(models=["rnn"])
