"""The attack on updates: against one flat gradient at a time, on sure members, and on nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from finished_rounds import finished
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from fedsim import ConfigError, Continual, Faults, Population, Simulation, Static
from fedsim.leakage.panels import device_panel, example_panel
from fedsim.leakage.success import auc
from fedsim.leakage.update_attack import UpdateAttack
from fedsim.models import BiLSTMTagger
from fedsim.state import pack, unpack
from fedsim.training.batches import tensors
from strategies import Selective, UniformSelection

PEOPLE = Population.load("home", devices=8)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=8, hidden=8)
SENT = {name: p.detach() for name, p in MODEL.named_parameters()}
PANEL = example_panel(PEOPLE, seed=0, size=60)


def attack(panel=PANEL, people=PEOPLE, schedule=None, **fields):
    return UpdateAttack(
        panel=panel,
        population=people,
        model=MODEL,
        schedule=schedule or Static(rounds=3),
        seed=0,
        **fields,
    )


def simulation(probes, panel=PANEL, people=PEOPLE, schedule=None, cohort=None, faults=None):
    return Simulation(
        population=panel.applied(people),
        model=MODEL,
        client=NLUClient(),
        strategy=Selective(FedAvg(), UniformSelection(cohort=cohort or people.devices)),
        schedule=schedule or Static(rounds=3),
        workers=0,
        probes=probes,
        faults=faults,
    )


def flat(parameters):
    return torch.cat([p.flatten() for p in parameters]).double()


def replied(panel, device, people=PEOPLE, period=0, round=1):
    """What a device replies with in a round under the panel's coins."""
    trainer = NLUClient().bind(panel.applied(people), MODEL, 0)
    return trainer.train(SENT, device=device, period=period, round=round).parameters


def test_scores_are_cosines_of_whole_gradients_and_updates():
    probe, replies = attack(), {d: replied(PANEL, d) for d in (0, 3, 5)}
    probe.observe(1, 0, SENT, {d: (lambda r=r: r) for d, r in replies.items()})
    scores = probe.files()["update_scores"]["scores"]
    for member, device in enumerate(PANEL.device.tolist()):
        if device not in replies:
            assert np.isnan(scores[member])
            continue
        batch = tensors(PANEL.examples(PEOPLE), np.array([member]))
        own = {name: p.clone().requires_grad_() for name, p in SENT.items()}
        gradient = flat(torch.autograd.grad(MODEL.losses(own, batch).sum(), list(own.values())))
        update = flat(replies[device].values()) - flat(SENT.values())
        cosine = torch.dot(gradient, update) / (gradient.norm() * update.norm())
        assert scores[member] == pytest.approx(-float(cosine), rel=1e-3, abs=1e-5)


def test_a_run_shows_it_what_devices_replied_and_it_changes_nothing():
    probe = attack(schedule=Static(rounds=1))
    with_it = simulation([probe], schedule=Static(rounds=1)).run(progress=False)
    without = simulation([], schedule=Static(rounds=1)).run(progress=False)
    assert with_it.summary["model_sha256"] == without.summary["model_sha256"]
    alone = attack(schedule=Static(rounds=1))
    replies = {d: (lambda d=d: replied(PANEL, d)) for d in range(8)}
    alone.observe(1, 0, SENT, replies)
    assert with_it.arrays("update_scores")["scores"] == pytest.approx(alone.sums, abs=1e-6)
    figures = with_it.rounds[0]["figures"]
    counted = figures["leakage/members_by_update"] + figures["leakage/non_members_by_update"]
    assert counted == 60


def test_the_only_example_of_an_update_is_found():
    """Each device trains on its panel example alone, or on nothing."""
    starts = PEOPLE.starts
    kept = np.zeros(starts[-1], bool)
    kept[starts[:-1]] = True
    people = PEOPLE.without(~kept)
    panel = example_panel(people, seed=1, size=8)
    probe = attack(panel, people)
    simulation([probe], panel, people).run(progress=False)
    scores = probe.files()["update_scores"]["scores"]
    assert 0 < panel.included.sum() < 8
    assert (scores[~panel.included] == 0).all() and (scores[panel.included] > 0).all()
    assert auc(scores, panel.included) == 1.0


def test_updates_tell_nothing_of_coins_that_nobody_trained_under():
    """40 throws of coins over the scores of one run; 3 standard errors are exceeded with
    probability 0.003."""
    probe = attack(replace(PANEL, included=np.ones(60, bool)))
    simulation([probe], probe.panel, schedule=Static(rounds=1)).run(progress=False)
    values = []
    for number in range(1, 41):
        probe.panel = PANEL.redrawn(0, number)
        values.append(probe(finished(1))["leakage/auc_by_update"])
    assert abs(np.mean(values) - 0.5) <= 3 * np.std(values, ddof=1) / np.sqrt(40)


def test_only_examples_that_a_device_holds_now_are_looked_for():
    schedule = Continual(periods=3, rounds=3, keep="window:2")
    people = PEOPLE.cut(3, "device", schedule.retention)
    panel = example_panel(people, seed=0, size=60)
    probe = attack(panel, people, schedule)
    sent = {d: (lambda: SENT) for d in range(8)}
    period, times = panel.examples(people).period, np.zeros(60)
    for now in range(3):
        probe.observe(now + 1, now, SENT, sent)
        times += (period <= now) & (period > now - 2)
        assert np.array_equal(probe.times, times)


def test_devices_whose_reply_is_lost_are_not_seen():
    probe = attack(schedule=Static(rounds=2))
    faults = Faults(dropout=0.5)
    run = simulation([probe], schedule=Static(rounds=2), faults=faults).run(progress=False)
    arrived = np.bincount(run.cohorts["arrived"], minlength=8)
    assert 0 < arrived.sum() < 16
    assert np.array_equal(probe.times, arrived[PANEL.device])


def test_rounds_between_are_not_looked_at_and_the_last_shows_what_there_is():
    probe = attack(every=2)
    run = simulation([probe]).run(progress=False)
    assert (probe.times == 1).all()
    shown = [line["figures"].get("leakage/auc_by_update") for line in run.rounds]
    assert shown[0] is None and shown[1] == shown[2] is not None


def test_it_goes_on_from_a_saved_state():
    one, two = attack(), attack()
    replies = {d: (lambda d=d: replied(PANEL, d)) for d in (0, 3)}
    one.observe(1, 0, SENT, replies)
    two.load_state_dict(unpack(*pack(one.state_dict())))
    for probe in (one, two):
        probe.observe(2, 0, SENT, replies)
    assert one(finished(2)) == two(finished(2))


def test_a_model_that_is_no_number_does_not_end_a_run():
    broken = {name: torch.full_like(p, torch.nan) for name, p in SENT.items()}
    probe = attack()
    probe.observe(1, 0, broken, {0: lambda: SENT})
    assert np.isfinite(probe.sums).all()


def test_whole_devices_are_refused():
    panel = device_panel(PEOPLE, seed=0, size=6)
    with pytest.raises(ConfigError, match="choose an example_panel"):
        attack(panel)


def test_looking_at_no_round_is_refused():
    with pytest.raises(ConfigError, match="every is 0"):
        attack(every=0)
