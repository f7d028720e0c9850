"""A run whose mechanism does less than it claims is found out, marked, and ends with code 3."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from test_probe import MODEL, unlearnable

import experiments.recipe
from clients import NLUClient
from experiments.command_line import REFUTED, main
from fedsim import Simulation, Static, load_run
from fedsim.leakage import Leakage, example_panel
from fedsim.privacy.release import DeviceLevel, Release
from fedsim.report.leakage import refutation
from strategies import PrivateAggregation, Selective, UniformSelection

PEOPLE, SCHEDULE = unlearnable(120), Static(rounds=2)
PANEL = example_panel(PEOPLE, seed=0, size=120)
MECHANISM = DeviceLevel(clip_norm=1000.0, noise_multiplier=20.0)
"""Clipping touches nothing; without its noise the devices' models are learnt by heart."""


def run(out=None):
    """Two devices that always come and learn 120 utterances with random intents by heart."""
    return Simulation(
        population=PANEL.applied(PEOPLE),
        model=MODEL,
        client=NLUClient(local_epochs=20, optimizer="adamw", learning_rate=0.01),
        strategy=Selective(PrivateAggregation(FedAvg(), MECHANISM), UniformSelection(cohort=2)),
        schedule=SCHEDULE,
        workers=0,
        probes=[Leakage(panel=PANEL, population=PEOPLE, model=MODEL, schedule=SCHEDULE)],
    ).run(out, progress=False)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A server that forgets its noise, and accounts for it."""
    whole = Release.mean

    def noiseless(release, updates, size, noise):
        return whole(replace(release, sum_noise_multiplier=0.0), updates, size, noise)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Release, "mean", noiseless)
        return run(tmp_path_factory.mktemp("broken") / "run")


def test_the_audit_refutes_the_claim_and_every_place_says_so(broken):
    assert broken.rounds[-1]["epsilon_audit_low"] > 1
    assert broken.rounds[-1]["epsilon_claim_at_delta_audit"] < 1
    assert broken.rounds[-1]["figures"]["leakage/bound_exceeds_claim"] is True
    recorded = json.loads((broken.path / "summary.json").read_text())
    assert recorded["leakage/bound_exceeds_claim"] is True
    assert "a mechanism or its accounting is broken" in refutation(load_run(broken.path))
    assert "- CLAIM REFUTED: the audit of round" in broken.table().markdown()


def test_its_twin_that_adds_the_noise_passes():
    found = run()
    assert found.rounds[-1]["figures"]["leakage/bound_exceeds_claim"] is False
    assert found.rounds[-1]["epsilon_audit_low"] <= found.rounds[-1]["epsilon_claim_at_delta_audit"]
    assert refutation(found) is None
    assert "REFUTED" not in found.table().markdown()


def test_the_command_ends_with_exit_code_3_and_one_sentence(broken, monkeypatch, capsys):
    monkeypatch.setattr(experiments.recipe, "run_recipe", lambda options, out: broken)
    assert main(["run"]) == REFUTED == 3
    said = capsys.readouterr()
    assert said.err == f"fedsim: {refutation(broken)}\n"
    assert "CLAIM REFUTED" in said.out


def test_a_finished_run_that_is_resumed_is_still_refuted(broken, capsys):
    assert main(["resume", str(broken.path)]) == REFUTED
    said = capsys.readouterr()
    assert "is finished; there is nothing left to do" in said.out
    assert said.err.startswith("fedsim: the audit of round ")


def test_what_was_attacked_and_scored_stands_in_the_record(broken):
    there = load_run(broken.path)
    assert np.array_equal(there.arrays("panel")["included"], PANEL.included)
    scores = there.arrays("scores")
    assert scores["rounds"].tolist() == [1, 2]
    assert scores["losses"].shape == (2, 120)
    for stem in ("panel", "scores"):
        for name, array in broken.arrays(stem).items():
            assert np.array_equal(there.arrays(stem)[name], array)
