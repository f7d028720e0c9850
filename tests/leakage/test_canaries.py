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
from strategies import Selective, UniformSelection

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


def test_without_privacy_canaries_are_found_and_bound_epsilon():
    schedule = Static(rounds=2)
    probe = Leakage(
        panel=PANEL,
        population=WIDER,
        model=MODEL,
        schedule=schedule,
        losses=CANARIES.losses(MODEL),
    )
    run = Simulation(
        population=WIDER,
        model=MODEL,
        client=CanaryClient(client=NLUClient(), canaries=CANARIES),
        strategy=Selective(FedAvg(), UniformSelection(cohort=66), weighting="equal"),
        schedule=schedule,
        seed=2,
        workers=0,
        probes=[probe],
    ).run(progress=False)
    assert run.rounds[0]["mia_auc"] > 0.9
    assert run.rounds[-1]["epsilon_audit_low"] > 0.5
    assert run.rounds[-1]["failures"] == 0


def test_canaries_that_cannot_be_heard_are_refused():
    with pytest.raises(ConfigError, match="activity is 0"):
        canary_panel(PEOPLE, seed=0, size=3, activity=0)
    with pytest.raises(ConfigError, match="size is 0"):
        canary_panel(PEOPLE, seed=0, size=0, activity=1)
    with pytest.raises(ConfigError, match="length is 0"):
        Canaries(panel=PANEL, seed=0, length=0)
