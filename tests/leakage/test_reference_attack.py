"""LiRA and RMIA as a probe: against their definitions, on a memorising model, and on nothing."""

from dataclasses import replace

import numpy as np
import pytest
from finished_rounds import finished
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from fedsim import ConfigError, Continual, Population, Simulation, Static
from fedsim.leakage.attacks import lira, rmia
from fedsim.leakage.panel import GROUPS
from fedsim.leakage.panels import device_panel, example_panel
from fedsim.leakage.reference_attack import ATTACKS, ReferenceAttack, reference_attack
from fedsim.leakage.reference_models import ReferenceModels
from fedsim.leakage.signals import SignalLog, others_of, panel_examples
from fedsim.leakage.success import auc
from fedsim.models import BiLSTMTagger
from fedsim.probes import Due
from fedsim.rng import stream
from fedsim.state import pack, unpack
from strategies import Selective, UniformSelection

PEOPLE = Population.load("home", devices=8)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=8, hidden=16)
PANEL = example_panel(PEOPLE, seed=0, size=200)
OTHERS = 30


def attacked(panel, people=PEOPLE, schedule=None, **client):
    return Simulation(
        population=panel.applied(people),
        model=MODEL,
        client=NLUClient(**client),
        strategy=Selective(FedAvg(), UniformSelection(cohort=people.devices)),
        schedule=schedule or Static(rounds=2),
        workers=0,
    )


def random_losses(seed, *shape):
    return stream(seed, "losses").random(shape).astype(np.float32) + 0.1


def scripted(own, reference, out, *, panel=PANEL, people=PEOPLE, others=None, every=1):
    """A probe for which models have these losses, whatever the signal.

    Args:
      own: (n,) of the attacked model.
      reference: (models, n).
      out: (models, n) bool.
      panel: who is attacked.
      people: before its coins.
      others: ((z,), (models, z)) losses of held-out utterances.
      every: rounds between attacks.
    """
    log = SignalLog(
        model=MODEL,
        panel=panel_examples(panel, people),
        others=people.test.take(np.arange(OTHERS)),
        due=Due(every=every),
    )
    others = others or (random_losses(1, OTHERS), random_losses(2, len(out), OTHERS))
    log._panel = lambda _: np.stack([own, own])
    log._others = lambda _: np.stack([others[0], others[0]])
    rounds = np.arange(1, 31)
    repeated = [
        np.broadcast_to(each[:, None, None], (len(out), 30, 2, each.shape[-1]))
        for each in (reference, others[1])
    ]
    references = ReferenceModels(rounds=rounds, panel=repeated[0], others=repeated[1], out=out)
    return ReferenceAttack(panel=panel, log=log, references=references)


def random_attack(seed=0, models=4, panel=PANEL, **fields):
    size = len(panel.rows)
    coins = [panel.redrawn(seed, k).included[panel.member] for k in range(1, models + 1)]
    own, reference = random_losses(3 + seed, size), random_losses(1000 + seed, models, size)
    return scripted(own, reference, ~np.array(coins), panel=panel, **fields)


def test_figures_are_those_of_lira_and_rmia_on_members_that_a_model_was_trained_without():
    probe = random_attack()
    figures = probe(finished(1))
    own = probe.log.said(1)[0][0]
    reference, out = probe.references.panel[:, 0, 0], probe.references.out
    judged = out.any(0)
    others = (probe.log.said(1)[1][0], probe.references.others[:, 0, 0])
    by = {
        "lira": lira(own[judged], reference[:, judged], out[:, judged]),
        "rmia": rmia(own[judged], reference[:, judged], out[:, judged], *others),
    }
    member, group = PANEL.included[judged], PANEL.group[judged]
    assert 0 < (~judged).sum() < 40
    for name, scores in by.items():
        assert figures[f"leakage/auc_by_{name}"] == pytest.approx(auc(scores, member))
        counted = figures[f"leakage/members_by_{name}"], figures[f"leakage/non_members_by_{name}"]
        assert counted == (member.sum(), (~member).sum())
        for k, of in enumerate(GROUPS):
            expected = auc(scores[group == k], member[group == k])
            assert figures[f"leakage/auc_by_{name}_{of}"] == pytest.approx(expected)
    assert figures["leakage/reference_models"] == 4


def test_each_signal_has_its_own_attacks():
    probe = random_attack()
    # Members of the panel give themselves away by a single word alone.
    word = np.where(PANEL.included, 0.0, 5.0).astype(np.float32)
    joint = random_losses(9, 200)
    probe.log._panel = lambda _: np.stack([joint, word])
    figures = probe(finished(1))
    assert figures["leakage/auc_by_lira_largest"] > 0.95 > 0.7 > figures["leakage/auc_by_lira"]
    assert figures["leakage/auc_by_rmia_largest"] > 0.95 > 0.7 > figures["leakage/auc_by_rmia"]


def test_a_model_that_saw_no_member_looks_like_guessing():
    """40 panels, each scored by models that were trained on none of it; 3 standard errors are
    exceeded with probability 0.003 for each of the four attacks."""
    values = []
    for seed in range(40):
        panel = example_panel(PEOPLE, seed=seed, size=200)
        figures = random_attack(seed, panel=panel)(finished(1))
        values.append([figures[f"leakage/auc_by_{name}"] for name in ATTACKS])
    mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    assert (np.abs(mean - 0.5) <= 3 * spread / np.sqrt(40)).all()


def test_an_untrained_model_is_not_told_from_untrained_reference_models():
    own = random_losses(0, 200)
    out = ~np.array([PANEL.redrawn(0, k).included for k in (1, 2, 3)])
    same = np.repeat(own[None], 3, axis=0)
    figures = scripted(own, same, out)(finished(1))
    for name in ATTACKS:
        low, high = figures[f"leakage/auc_low_by_{name}"], figures[f"leakage/auc_high_by_{name}"]
        assert low <= 0.5 <= high


def test_members_count_from_their_period_on():
    cut = PEOPLE.cut(3)
    panel = example_panel(cut, seed=0, size=200)
    probe = random_attack(panel=panel, people=cut)
    period, judged = panel.examples(cut).period, probe.references.out.any(0)
    for now in range(3):
        figures = probe(finished(now + 1, now))
        counted = judged & (period <= now)
        assert figures["leakage/members_by_rmia"] == (panel.included & counted).sum()


def test_where_no_spread_can_be_had_lira_is_silent_and_rmia_is_not():
    out = np.zeros((2, 200), bool)
    out[0, :100] = out[1, 100:] = True
    figures = scripted(random_losses(0, 200), random_losses(1, 2, 200), out)(finished(1))
    assert figures["leakage/auc_by_lira"] is None
    assert figures["leakage/auc_by_rmia"] is not None


def test_whole_devices_are_told_by_the_mean_score_of_their_utterances():
    people = Population.load("home", devices=40)
    panel = device_panel(people, seed=0, size=30)
    own = np.where(panel.included, 0.1, 3.0)[panel.member].astype(np.float32)
    out = ~np.array([panel.redrawn(0, k).included[panel.member] for k in (1, 2, 3, 4)])
    reference = 1 + random_losses(1, 4, len(own))
    figures = scripted(own, reference, out, panel=panel, people=people)(finished(1))
    assert figures["leakage/auc_by_lira"] == 1.0
    counted = figures["leakage/members_by_lira"] + figures["leakage/non_members_by_lira"]
    assert counted == len(np.unique(panel.member[out.any(0)]))


def test_rounds_that_are_not_due_have_no_figures_and_files_hold_the_others():
    probe = random_attack(every=2)
    measured = [k for k in (1, 2, 3, 4, 5) if probe(finished(k, last=k == 5))]
    assert measured == [2, 4, 5]
    kept = probe.files()["reference_scores"]
    assert kept["rounds"].tolist() == measured and kept["attacks"].tolist() == list(ATTACKS)
    assert kept["scores"].shape == (3, len(ATTACKS), 200)
    assert (np.isnan(kept["scores"][0, 2]) == ~probe.references.out.any(0)).all()


def test_a_probe_goes_on_from_a_saved_state():
    one, two = random_attack(), random_attack()
    one(finished(1))
    two.load_state_dict(unpack(*pack(one.state_dict())))
    assert one(finished(2)) == two(finished(2))
    for name, array in one.files()["reference_scores"].items():
        equal_nan = array.dtype.kind == "f"
        assert np.array_equal(array, two.files()["reference_scores"][name], equal_nan=equal_nan)


def test_a_run_is_attacked_every_k_rounds_and_not_touched():
    simulation = attacked(PANEL, schedule=Continual(periods=2, rounds=4, keep="reservoir:5"))
    probe = reference_attack(
        simulation, panel=PANEL, population=PEOPLE, models=2, every=3, progress=False
    )
    with_it = replace(simulation, probes=[probe]).run(progress=False)
    without = simulation.run(progress=False)
    assert with_it.summary["model_sha256"] == without.summary["model_sha256"]
    shown = [line["round"] for line in with_it.rounds if "leakage/auc_by_rmia" in line["figures"]]
    assert shown == [3, 4]
    assert with_it.arrays("reference_scores")["rounds"].tolist() == shown


def test_a_model_that_learns_by_heart_is_found_out(unlearnable):
    people = unlearnable(120, devices=1)
    panel = example_panel(people, seed=0, size=120)
    client = {"batch_size": 60, "local_epochs": 40, "optimizer": "adamw", "learning_rate": 0.03}
    simulation = attacked(panel, people, schedule=Static(rounds=1), **client)
    probe = reference_attack(simulation, panel=panel, population=people, progress=False)
    figures = replace(simulation, probes=[probe]).run(progress=False).rounds[-1]["figures"]
    for name in ("lira", "rmia"):
        assert figures[f"leakage/auc_by_{name}"] > 0.9


def test_a_panel_whose_examples_are_null_is_refused_before_anything_is_trained():
    with pytest.raises(ConfigError, match="from before the panel was applied"):
        reference_attack(attacked(PANEL), panel=PANEL, population=PANEL.applied(PEOPLE))


def test_a_population_without_held_out_utterances_is_refused():
    nobody = PEOPLE.test.slice(0, 0)

    class Bare:
        dev = test = nobody

    with pytest.raises(ConfigError, match="no held-out utterances"):
        others_of(Bare(), 0)
