"""The probe in a run: a memorising model is found, a run is not touched, a resumed one goes on."""

from dataclasses import replace

import numpy as np
import pytest
from finished_rounds import finished
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from fedsim import ConfigError, Continual, Population, Simulation, Static
from fedsim.leakage.attacks import by_reference
from fedsim.leakage.panel import GROUPS
from fedsim.leakage.panels import device_panel, example_panel
from fedsim.leakage.probe import Leakage
from fedsim.leakage.success import auc
from fedsim.models import BiLSTMTagger
from fedsim.population.examples import concatenate
from fedsim.privacy import DeviceLedger, DeviceSum, Gaussian
from fedsim.privacy.account import Account
from fedsim.privacy.release import DeviceLevel
from fedsim.rng import stream
from fedsim.state import pack, unpack
from strategies import PrivateAggregation, Selective, UniformSelection

PEOPLE = Population.load("home", devices=8)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=8, hidden=16)


def unlearnable(size):
    """Home's utterances, each once, with random intents: they can be learnt by heart alone."""
    said = concatenate([PEOPLE.train(device) for device in range(PEOPLE.devices)])
    words = [
        said.token_ids[a:b].tobytes()
        for a, b in zip(said.offsets[:-1], said.offsets[1:], strict=True)
    ]
    rows = said.take(np.sort(np.unique(words, return_index=True)[1])[:size])
    draw, intents = stream(0, "random labels"), len(PEOPLE.inventory.intents)
    rows = rows.with_(intents=draw.integers(0, intents, len(rows)).astype(np.int16))
    nobody = Population.load("home", devices=1)
    nobody = nobody.without(np.ones(nobody.starts[-1], bool))
    half = len(rows) // 2
    return nobody.with_devices([rows.slice(0, half), rows.slice(half, len(rows))])


def simulation(population, schedule, probes=(), **client):
    return Simulation(
        population=population,
        model=MODEL,
        client=NLUClient(**client),
        strategy=Selective(FedAvg(), UniformSelection(cohort=population.devices)),
        schedule=schedule,
        workers=0,
        probes=probes,
    )


def scripted(losses, *, people=PEOPLE, panel=None, schedule=None, untrained=0.0, **fields):
    """A probe for which the global model has these losses on the panel's rows."""
    panel = panel or example_panel(people, seed=0, size=len(losses))
    probe = Leakage(
        panel=panel,
        population=people,
        model=MODEL,
        schedule=schedule or Static(rounds=30),
        **fields,
    )
    return telling(probe, losses, untrained)


def telling(probe, losses, untrained=0.0):
    """The probe, where the global model (without parameters here) has these losses."""
    before = np.zeros(len(probe.panel.rows)) + untrained
    probe.losses = lambda parameters: before if parameters else np.asarray(losses)
    return probe


def memorised(panel):
    """Losses of a model that is sure of every member and of nobody else."""
    return np.where(panel.included, 0.0, 5.0)[panel.member]


PANEL = example_panel(PEOPLE, seed=0, size=400)
GROUP_IDS = list(enumerate(GROUPS))


def test_a_model_that_learns_by_heart_is_found_out():
    people, schedule = unlearnable(120), Static(rounds=2)
    panel = example_panel(people, seed=0, size=120)
    probe = Leakage(panel=panel, population=people, model=MODEL, schedule=schedule)
    client = {"local_epochs": 20, "optimizer": "adamw", "learning_rate": 0.01}
    run = simulation(panel.applied(people), schedule, [probe], **client).run(progress=False)
    first, last = run.rounds
    assert last["mia_auc"] > 0.9
    assert last["mia_auc_low"] <= last["mia_auc"] <= last["mia_auc_high"]
    assert last["epsilon_audit_low"] > 1.0
    assert last["epsilon_audit_low"] >= first["epsilon_audit_low"]
    assert last["epsilon_claim_at_delta_audit"] == np.inf
    assert not last["figures"]["leakage/bound_exceeds_claim"]


def test_the_probe_changes_no_model():
    schedule = Continual(periods=2, rounds=4, keep="reservoir:5")
    panel = example_panel(PEOPLE, seed=0, size=50)
    probe = Leakage(panel=panel, population=PEOPLE, model=MODEL, schedule=schedule)
    shas = [
        simulation(panel.applied(PEOPLE), schedule, probes).run(progress=False).summary
        for probes in ((), [probe])
    ]
    assert shas[0]["model_sha256"] == shas[1]["model_sha256"]
    assert "mia_auc" in shas[1] and "mia_auc" not in shas[0]


def test_a_model_that_saw_no_member_looks_like_guessing():
    """40 runs, each with a panel all of which is null: 3 standard errors are exceeded with
    probability 0.003, and the 95 % intervals miss one half more than 6 times with 0.004."""
    people, schedule, values, missed = Population.load("home", devices=3), Static(rounds=1), [], 0
    for seed in range(40):
        panel = example_panel(people, seed=seed, size=60)
        nobody = replace(panel, included=np.zeros(60, bool))
        probe = Leakage(panel=panel, population=people, model=MODEL, schedule=schedule)
        attacked = simulation(nobody.applied(people), schedule, [probe], learning_rate=0.3)
        last = replace(attacked, seed=seed).run(progress=False).rounds[-1]
        values.append(last["mia_auc"])
        missed += not last["mia_auc_low"] <= 0.5 <= last["mia_auc_high"]
    assert abs(np.mean(values) - 0.5) <= 3 * np.std(values, ddof=1) / np.sqrt(40)
    assert missed <= 6


def test_figures_are_those_of_the_loss_against_the_untrained_models():
    losses, untrained = stream(1, "losses").random(400), stream(2, "losses").random(400)
    probe = scripted(losses, untrained=untrained)
    figures = probe(finished(1))
    scores = by_reference(losses.astype(np.float32), untrained.astype(np.float32))
    member = probe.panel.included
    assert figures["mia_auc"] == pytest.approx(auc(scores, member))
    for k, name in enumerate(GROUPS):
        own = probe.panel.group == k
        assert figures[f"leakage/auc_{name}"] == pytest.approx(auc(scores[own], member[own]))
        assert figures[f"leakage/members_{name}"] == member[own].sum()
    assert figures["leakage/auc_by_loss"] == pytest.approx(auc(-losses, member))
    for k, name in enumerate(GROUPS):
        own = probe.panel.group == k
        assert figures[f"leakage/auc_by_loss_{name}"] == pytest.approx(
            auc(-losses[own], member[own])
        )
        assert figures[f"leakage/non_members_by_loss_{name}"] == (~member[own]).sum()
    assert figures["mia_tpr_at_1pct"] is not None
    assert figures["leakage/tpr_at_1pct_coarse"]
    assert figures["leakage/tpr_at_01pct"] is None


def test_every_group_has_a_bound_and_none_is_above_the_cap_of_its_size():
    probe = scripted(memorised(PANEL), panel=PANEL)
    figures = probe(finished(1))
    whole = figures["epsilon_audit_low"]
    groups = [figures[f"leakage/epsilon_audit_low_{name}"] for name in GROUPS]
    assert whole > max(groups) and min(groups) > 2
    assert figures["delta_audit"] == probe.audit.delta(400)


def test_members_count_from_their_period_on():
    schedule = Continual(periods=3, rounds=30)
    cut = PEOPLE.cut(3)
    panel = example_panel(cut, seed=0, size=400)
    probe = scripted(memorised(panel), panel=panel, schedule=schedule)
    period = panel.examples(cut).period
    for now in range(3):
        figures = probe(finished(10 * now + 1, now))
        counted = figures["leakage/members"], figures["leakage/non_members"]
        come = panel.included[period <= now]
        assert counted == (come.sum(), (~come).sum())


def test_a_bound_is_looked_for_in_audited_rounds_alone_and_kept():
    probe = scripted(np.full(400, 1.0), panel=PANEL)
    bounds = []
    for round in range(1, 31):
        # The model is found out in round 5 and forgets; only audited rounds can tell.
        sure = round in (5, 11)
        telling(probe, memorised(PANEL) if sure else np.ones(400))
        bounds.append(probe(finished(round, last=round == 30))["epsilon_audit_low"])
    assert 5 not in probe.audit.rounds and 11 in probe.audit.rounds
    assert bounds[:10] == [0.0] * 10
    assert bounds[10] > 2 and set(bounds[10:]) == {bounds[10]}


def test_rounds_between_measurements_have_no_figures_but_audited_ones_always_do():
    probe = scripted(np.ones(400), every=7)
    measured = [k for k in range(1, 31) if probe(finished(k, last=k == 30))]
    assert measured == sorted({*probe.audit.rounds, 7, 14, 21, 28, 30})


def test_a_bound_above_the_claim_about_the_same_devices_is_said_and_stays_said(caplog):
    asked = []

    def claim(finished, devices, delta):
        asked.append((devices.tolist(), delta))
        return 0.5 if finished.round == 1 else 9.0

    probe = scripted(memorised(PANEL), panel=PANEL, claim=claim)
    figures = probe(finished(1))
    assert figures["epsilon_audit_low"] > figures["epsilon_claim_at_delta_audit"] == 0.5
    assert figures["leakage/bound_exceeds_claim"]
    assert "but 0.5 is claimed" in caplog.text
    wanted = [PANEL.device, *(PANEL.device[PANEL.group == k] for k in range(len(GROUPS)))]
    assert asked == [(np.unique(devices).tolist(), probe.delta) for devices in wanted]
    assert probe(finished(2))["leakage/bound_exceeds_claim"]


def test_a_bound_below_the_claim_is_no_alarm():
    probe = scripted(memorised(PANEL), panel=PANEL, claim=lambda *_: 8.0)
    assert not probe(finished(1))["leakage/bound_exceeds_claim"]


def test_an_earlier_model_is_the_reference_of_a_third_attack():
    probe = scripted(np.ones(400), panel=PANEL)
    assert "leakage/auc_by_earlier" not in probe(finished(1))
    telling(probe, memorised(PANEL))
    assert probe(finished(2))["leakage/auc_by_earlier"] == 1.0
    probe(finished(3))
    # Half of round 4 is round 2, whose model already knew what this one knows.
    assert probe(finished(4))["leakage/auc_by_earlier"] == 0.5


def test_whole_devices_are_told_apart_by_their_mean_loss():
    people = Population.load("home", devices=60)
    panel = device_panel(people, seed=0, size=50)
    probe = scripted(memorised(panel), people=people, panel=panel)
    figures = probe(finished(1))
    assert figures["mia_auc"] == 1.0
    assert figures["leakage/members"] + figures["leakage/non_members"] == 50


def test_losses_that_are_no_numbers_do_not_end_a_run():
    losses = memorised(PANEL)
    losses[~PANEL.included] = np.nan
    losses[np.flatnonzero(~PANEL.included)[0]] = np.inf
    assert scripted(losses, panel=PANEL)(finished(1))["mia_auc"] == 1.0


def test_a_probe_goes_on_from_a_saved_state():
    draw, claim = stream(3, "losses"), lambda *_: 0.5
    one, two = (scripted(memorised(PANEL), panel=PANEL, claim=claim) for _ in range(2))
    one(finished(1))
    two.load_state_dict(unpack(*pack(one.state_dict())))
    losses = draw.random(400)
    assert telling(one, losses)(finished(2)) == telling(two, losses)(finished(2))
    for name, array in one.arrays().items():
        assert np.array_equal(array, two.arrays()[name])


def test_arrays_hold_the_losses_of_the_audited_rounds():
    probe = scripted(np.ones(400), panel=PANEL, every=2, schedule=Static(rounds=60))
    assert probe.arrays()["losses"].shape == (0, 400)
    said = {}
    for round in range(1, 61):
        said[round] = stream(5, "losses", round).random(400).astype(np.float32)
        telling(probe, said[round])(finished(round, last=round == 60))
    arrays = probe.arrays()
    assert arrays["rounds"].tolist() == list(probe.audit.rounds)
    assert np.array_equal(arrays["losses"], [said[k] for k in probe.audit.rounds])
    assert arrays["untrained"].tolist() == [0.0] * 400
    assert probe.files()["scores"].keys() == arrays.keys()
    assert np.array_equal(probe.files()["panel"]["included"], PANEL.included)


def test_what_it_remembers_does_not_grow_with_the_rounds():
    def size(rounds):
        probe = scripted(np.ones(400), panel=PANEL, schedule=Static(rounds=rounds))
        for round in range(1, rounds + 1):
            probe(finished(round, last=round == rounds))
        return sum(array.nbytes for array in pack(probe.state_dict())[1])

    # Ten audited rounds, two earlier ones, the untrained model; and the bounds and round numbers.
    assert size(300) == size(30) <= 13 * 400 * 4 + 200


def test_utterances_are_scored_on_the_workers_of_the_run():
    asked = []

    def workers(function, items):
        asked.append(len(items))
        return map(function, items)

    probe = Leakage(panel=PANEL, population=PEOPLE, model=MODEL, schedule=Static(rounds=3))
    parameters = {name: p.detach() for name, p in MODEL.named_parameters()}
    probe(replace(finished(1), parameters=parameters, map=workers))
    # The new model and the untrained one, in chunks of 128 utterances.
    assert asked == [4, 4]


@pytest.mark.parametrize("unit", ["device", "example"])
def test_bounds_are_held_against_the_ledgers_of_the_run(unit):
    ledger = DeviceLedger(PEOPLE.devices, 1e-5)
    rates = np.linspace(0.01, 0.3, PEOPLE.devices)
    planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=rates)
    ledger.charge(planned, np.array([0]))
    panel = PANEL if unit == "example" else device_panel(PEOPLE, seed=0, size=PEOPLE.devices)
    probe = scripted(memorised(panel), panel=panel)
    figures = probe(replace(finished(1), account=Account(device=ledger)))
    relation = "replace-one" if unit == "example" else "zero-out"
    for name, who in [("", panel.group >= 0), *((f"_{g}", panel.group == k) for k, g in GROUP_IDS)]:
        wanted = ledger.epsilons(panel.device[who], probe.delta, relation).max()
        key = f"epsilon_claim_at_delta_audit{name}"
        found = figures[f"leakage/{key}"] if name else figures[key]
        assert found == pytest.approx(wanted, rel=1e-3)


def test_before_the_run_it_says_what_it_costs_and_what_it_may_be_compared_with():
    probe = scripted(np.ones(400), panel=PANEL)
    ledger = DeviceLedger(PEOPLE.devices, 1e-5)
    begun = probe.begin(Account(device=ledger), 30)
    out = int((~PANEL.included).sum())
    cost, comparison, meaning = begun["notes"]
    assert f"took {out:,} of {int(PEOPLE.starts[-1]):,} training examples" in cost
    assert "epsilon_claim_at_delta_audit alone" in comparison
    assert "device-level epsilon of replacing" in comparison
    assert "95 % confidence" in meaning
    assert begun["audited_rounds"] == list(probe.audit.rounds)
    for silent in (Account(), Account(device=ledger, unbounded=frozenset({"device"}))):
        assert "no claim of this run may be compared" in probe.begin(silent, 30)["notes"][1]
    other = scripted(np.ones(400), panel=PANEL.redrawn(0, 1))
    assert other.begin(Account(), 30)["sha256"] != begun["sha256"]


def test_the_last_round_is_audited_where_a_privacy_budget_ends_the_run():
    schedule = Static(rounds=40)
    probe = Leakage(panel=PANEL, population=PEOPLE, model=MODEL, schedule=schedule, every=40)
    mechanism = DeviceLevel(noise_multiplier=2.0, delta=1e-3, run_budget=5.0)
    attacked = replace(
        simulation(PANEL.applied(PEOPLE), schedule, [probe], local_steps=1),
        strategy=Selective(PrivateAggregation(FedAvg(), mechanism), UniformSelection(cohort=4)),
    )
    run = attacked.run(progress=False)
    last = len(run.rounds)
    assert last < 40 and last == run.start["probes"]["Leakage"]["audited_rounds"][-1]
    assert run.rounds[-1]["delta_audit"] == run.start["probes"]["Leakage"]["delta"]
    assert last == run.arrays("scores")["rounds"][-1]


def test_a_population_whose_panel_is_already_null_is_refused():
    with pytest.raises(ConfigError, match="from before the panel was applied"):
        scripted(np.ones(400), people=PANEL.applied(PEOPLE), panel=PANEL)


def test_a_probe_that_never_measures_is_refused():
    with pytest.raises(ConfigError, match="every is 0"):
        scripted(np.ones(400), every=0)
