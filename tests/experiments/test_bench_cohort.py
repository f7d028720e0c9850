"""The benchmark trains the same cohorts both ways; no claim here is on time."""

import json

import numpy as np
import pytest
import torch

from experiments import bench_cohort as bench
from experiments.bench_cohort import bench_cohort
from experiments.cohort_work import LOADS, Work, cohort_of, model_of
from fedsim import ConfigError
from fedsim.training.chunks import ChunkPlan

HERE = torch.device("cpu")


@pytest.mark.parametrize("load", LOADS)
def test_a_cohort_holds_what_its_load_says(load):
    held = cohort_of(9, load).activity()
    fewest, most = LOADS[load]
    assert (held.min(), held.max()) == (fewest, most)
    assert (np.diff(held) <= 0).all()


def test_mixed_devices_are_mostly_light():
    held = cohort_of(100, "mixed").activity()
    assert np.median(held) < held.mean() < 20


@pytest.mark.parametrize("private", [False, True])
def test_every_way_meets_the_whole_cohort(private):
    work = Work(people=cohort_of(4, "light"), model=model_of("BiLSTM"), private=private, where=HERE)
    alone, stacked = (list(run(1, work.turn)) for run in (work.one_by_one, work.stacked))
    assert [r.examples for r in alone] == [r.examples for r in stacked] == [8, 5, 3, 1]
    assert work.pooled(1) == 17


def test_poisson_batches_of_a_device_hold_more_than_it_does_on_average():
    """Two steps of 16 expected examples for one that holds 17; a light one is met whole."""
    people = cohort_of(9, "mixed")
    plain, private = (
        Work(people=people, model=model_of("BiLSTM"), private=dp, where=HERE)
        for dp in (False, True)
    )
    held = people.activity()
    assert plain.served(1) == held.sum()
    expected = np.where(held < 16, held, -(-held // 16) * 16).sum()
    drawn = [private.served(round) for round in range(1, 101)]
    # A deviation of one round is below the root of what is expected.
    assert abs(np.mean(drawn) - expected) < 5 * (expected / 100) ** 0.5


def test_a_stack_works_on_more_places_than_its_devices_have_words():
    """One device's places are its words; of a stack, every sentence is as long as the longest of
    its rank."""
    people = cohort_of(4, "light")
    work = Work(people=people, model=model_of("transformer"), private=False, where=HERE)
    own = [-np.sort(-people.held(d, 0).lengths) for d in range(4)]
    ranks = np.array([np.pad(lengths, (0, 8 - len(lengths))) for lengths in own]).max(0)
    for devices, places in ((1, sum(each.sum() for each in own)), (4, 4 * ranks.sum())):
        work.__dict__["plan"] = ChunkPlan(where="cpu", devices=devices, device_bytes=1)
        assert work.places(1) == places


def test_a_tiny_run_states_every_line_and_budget(monkeypatch):
    monkeypatch.setattr(bench, "LIGHT", 4)
    measured = bench_cohort(cohorts=[4], loads=["light"], models=["BiLSTM"], repeats=1)
    contents = json.loads(measured.json())
    names = [line["name"].partition(": ")[2] for line in contents["measurements"]]
    assert names == ["one by one", "batched"] * 2
    assert all(line["peak_bytes"][0] > 0 for line in contents["measurements"])
    budgets = {b["name"].partition(",")[0]: b for b in contents["budgets"][1:]}
    assert budgets["equal_to_local"]["met"]
    assert budgets["dp_over_plain"]["value"] > 0
    assert contents["settings"]["share_of_pooled"]["BiLSTM, 4 light"] > 0
    assert contents["settings"]["private_over_plain_examples"] == {"BiLSTM, 4 light": 1.0}
    assert contents["settings"]["private_over_plain_places"] == {"BiLSTM, 4 light": 1.0}
    assert "kernels one by one" in measured.markdown()


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_kernels_are_counted_instead(monkeypatch):
    monkeypatch.setattr(bench, "LIGHT", 6)
    measured = bench_cohort(cohorts=[2], loads=["light"], models=["transformer"], repeats=1)
    (gpu,) = [b for b in measured.budgets if b.name.startswith("batched_over_one_by_one")]
    assert gpu.value is None and gpu.met is None and gpu.budget == pytest.approx(1 / 15)
    alone, stacked = measured.settings["kernels_one_by_one_and_stacked"]["transformer"]
    assert stacked < alone / 3


def test_what_cannot_be_timed_is_refused():
    with pytest.raises(ConfigError, match="repeats is 0"):
        bench_cohort(repeats=0)
    with pytest.raises(ConfigError, match="load is 'huge'; choose from light, mixed, heavy"):
        bench_cohort(loads=["huge"])
