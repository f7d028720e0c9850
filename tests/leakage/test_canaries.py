"""Canary devices: ordinary ones to the server, and found again in the models that heard them."""

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from fedsim import ConfigError, Population, Simulation, Static
from fedsim.leakage.canaries import Canaries, CanaryClient, canary_panel
from fedsim.leakage.probe import Leakage
from fedsim.models import BiLSTMTagger
from fedsim.privacy import ExampleLevel
from fedsim.privacy.release import DeviceLevel
from strategies import ActivitySelection, PrivateAggregation, Selective, UniformSelection

PEOPLE = Population.load("home", devices=6)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=8)
PARAMETERS = {name: p.detach() for name, p in MODEL.named_parameters()}
WIDER, PANEL = canary_panel(PEOPLE, seed=2, size=60, activity=4)
CANARIES = Canaries(panel=PANEL, seed=2, length=0.5)


def canary(included):
    return int(PANEL.device[PANEL.included == included][0])


def trained(device):
    trainer = CanaryClient(client=NLUClient(), canaries=CANARIES).bind(WIDER, MODEL, 2)
    return trainer.train(PARAMETERS, device=device, period=0, round=1)


def moved(parameters):
    return {name: parameters[name] - p for name, p in PARAMETERS.items()}


def norm(update):
    return float(torch.sqrt(sum((u.double() ** 2).sum() for u in update.values())))


def test_canaries_come_last_and_have_an_activity_like_any_device():
    assert WIDER.devices == 66
    assert PANEL.device.tolist() == list(range(6, 66))
    assert WIDER.activity()[6:].tolist() == [4] * 60
    assert WIDER.activity()[:6].tolist() == PEOPLE.activity().tolist()
    assert WIDER.cut(2).counts[6:].tolist() == [[2, 2]] * 60


def test_a_canary_moves_the_model_by_its_length_and_by_the_same_step_every_time():
    first, second = (moved(trained(canary(True)).parameters) for _ in range(2))
    assert norm(first) == pytest.approx(0.5, rel=1e-4)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_directions_of_canaries_are_nearly_orthogonal():
    one, two = (CANARIES.direction(k, PARAMETERS) for k in (6, 7))
    cosine = sum(float((one[name] * two[name]).sum()) for name in one) / 0.25
    assert abs(cosine) < 5 / np.sqrt(sum(p.numel() for p in PARAMETERS.values()))


def test_an_excluded_canary_is_a_null_device():
    result = trained(canary(False))
    assert norm(moved(result.parameters)) == 0
    assert (result.examples, result.seen) == (4, 0.0)


def test_ordinary_devices_train_as_without_canaries():
    alone = NLUClient().bind(PEOPLE, MODEL, 2).train(PARAMETERS, device=0, period=0, round=1)
    beside = trained(0)
    assert (alone.loss, alone.examples) == (beside.loss, beside.examples)
    for name in PARAMETERS:
        assert torch.equal(alone.parameters[name], beside.parameters[name])


def run_of(strategy, engine="local", **client):
    """Two rounds with the canaries, attacked after each."""
    schedule = Static(rounds=2)
    probe = Leakage(
        panel=PANEL,
        population=WIDER,
        model=MODEL,
        schedule=schedule,
        losses=CANARIES.losses(MODEL),
    )
    return Simulation(
        population=WIDER,
        model=MODEL,
        client=CanaryClient(client=NLUClient(**client), canaries=CANARIES),
        strategy=strategy,
        schedule=schedule,
        seed=2,
        workers=0,
        engine=engine,
        probes=[probe],
    ).run(progress=False)


EVERYBODY = Selective(FedAvg(), UniformSelection(cohort=66), weighting="equal")


def private(level):
    return Selective(PrivateAggregation(FedAvg(), level), ActivitySelection(cohort=10))


def test_without_privacy_canaries_are_found_and_bound_epsilon():
    run = run_of(EVERYBODY)
    assert run.rounds[0]["mia_auc"] > 0.9
    assert run.rounds[-1]["epsilon_audit_low"] > 0.5
    assert run.rounds[-1]["failures"] == 0


def test_canaries_have_rates_and_are_charged_and_their_bound_is_held_against_their_own_claim():
    run = run_of(private(DeviceLevel(clip_norm=0.5, noise_multiplier=1.0, delta=1e-5)))
    rates = run.cohorts["rates"][0]
    below_one = rates < 1
    assert below_one[6:].all() and below_one[:6].any()
    assert np.ptp((rates / WIDER.activity())[below_one]) < 1e-12
    assert (run.arrays("ledger")["epsilon_bound"][6:] > 0).all()
    last = run.rounds[-1]
    # Real devices of home hold more, so they come more often than any canary.
    assert 0 < last["epsilon_claim_at_delta_audit"] < last["epsilon_max"]


def test_canaries_leave_the_ledger_of_peoples_own_examples_as_it_is():
    level = ExampleLevel(noise_multiplier=1.0, clip_norm=1.0, delta=1e-5)
    run = run_of(EVERYBODY, privacy=level)
    alone = Simulation(
        population=PEOPLE,
        model=MODEL,
        client=NLUClient(privacy=level),
        strategy=Selective(FedAvg(), UniformSelection(cohort=6)),
        schedule=Static(rounds=2),
        workers=0,
    ).run(progress=False)
    bounds, wanted = (r.arrays("ledger")["example_epsilon_bound"] for r in (run, alone))
    assert np.isfinite(run.rounds[-1]["example_epsilon_max"])
    assert bounds[:6].tolist() == wanted.tolist()
    # Nothing that the ledger says of an example bounds what a whole device gives away.
    assert run.rounds[-1]["epsilon_claim_at_delta_audit"] == np.inf


def test_the_record_says_what_canaries_are_and_of_no_examples_that_were_left_out():
    cost = run_of(EVERYBODY).start["probes"]["Leakage"]["notes"][0]
    assert "60 canary devices, which hold no words" in cost
    assert f"fair coins let {PANEL.included.sum()} of them answer" in cost
    assert "training examples" not in cost


def test_the_batched_engine_which_would_train_canaries_is_refused():
    with pytest.raises(ConfigError, match="a CanaryTrainer trains one device at a time"):
        run_of(EVERYBODY, engine="batched")


def test_canaries_that_cannot_be_heard_are_refused():
    with pytest.raises(ConfigError, match="activity is 0"):
        canary_panel(PEOPLE, seed=0, size=3, activity=0)
    with pytest.raises(ConfigError, match="size is 0"):
        canary_panel(PEOPLE, seed=0, size=0, activity=1)
    with pytest.raises(ConfigError, match="length is 0"):
        Canaries(panel=PANEL, seed=0, length=0)
