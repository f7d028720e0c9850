"""Example-level DP from the draw to the record."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg, FedProx

from clients import NLUClient
from fedsim import ConfigError, Continual, Faults, Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from fedsim.privacy import ExampleLedger, ExampleLevel, LocalSteps
from fedsim.privacy.claim import EVERY_CLAIM
from fedsim.privacy.release import DeviceLevel
from fedsim.record import Writer
from fedsim.report.failures import failure_notes
from strategies import PrivateAggregation, Selective, UniformSelection

PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
PRIVATE = ExampleLevel(noise_multiplier=1.0, delta=1e-4)
LOCAL = LocalSteps(batch_size=16)


def simulation(strategy=None, privacy=PRIVATE, client=None, cohort=4, **changes) -> Simulation:
    fields = {
        "population": PEOPLE,
        "model": MODEL,
        "client": client or NLUClient(privacy=privacy),
        "strategy": Selective(strategy or FedAvg(), UniformSelection(cohort=cohort)),
        "schedule": Static(rounds=4),
        "workers": 0,
    }
    return Simulation(**{**fields, **changes})


def drawn(run) -> list[list[int]]:
    """The cohort of every round."""
    return [part.tolist() for part in np.split(run.cohorts["drawn"], run.cohorts["drawn_offsets"])][
        1:-1
    ]


def by_hand(run, people=PEOPLE, privacy=PRIVATE, most=None) -> ExampleLedger:
    """Every drawn device charged for what it held, by a loop."""
    ledger = ExampleLedger(people.devices, 1e-4)
    for line, cohort in zip(run.rounds, drawn(run), strict=True):
        for device in cohort:
            if most is None or ledger.participations(device) < most:
                held = people.activity(line["period"] - 1)[device]
                ledger.charge(device, privacy.participation(int(held), LOCAL))
    return ledger


def test_record_says_what_the_ledger_says():
    run = simulation().run(progress=False)
    line, ledger = run.rounds[-1], by_hand(run)
    figures = ledger.figures()
    assert 0 < figures["example_epsilon_median"] < figures["example_epsilon_max"]
    assert {name: line[name] for name in figures} == figures
    assert (line["privacy_unit"], line["delta"]) == ("example", 1e-4)
    for name in ("max", "median", "participation_max", "server_max"):
        assert line[f"epsilon_{name}"] == np.inf
    left = run.files["ledger"]
    np.testing.assert_array_equal(left["example_epsilon_bound"], ledger.bounds())
    assert left["participations"].tolist() == [ledger.participations(d) for d in range(12)]


def test_what_is_held_in_the_round_is_what_is_charged():
    schedule = Continual(periods=2, rounds=4, keep="reservoir:20")
    run = simulation(schedule=schedule).run(progress=False)
    people = PEOPLE.cut(2, "device", schedule.retention)
    assert not np.array_equal(people.activity(0), people.activity(1))
    expected = by_hand(run, people).figures()["example_epsilon_max"]
    assert run.rounds[-1]["example_epsilon_max"] == expected


def test_devices_that_fail_have_paid():
    well = simulation().run(progress=False)
    lost = simulation(faults=Faults(dropout=0.5, unavailable=0.5)).run(progress=False)
    assert lost.cohorts["arrived"].size == 0
    assert lost.rounds[-1]["example_epsilon_max"] == well.rounds[-1]["example_epsilon_max"]


def test_a_device_refuses_after_its_last_participation_and_pays_no_more():
    privacy = ExampleLevel(epsilon=4.0, delta=1e-4, max_participations=1)
    run = simulation(privacy=privacy, cohort=8).run(progress=False)
    cohorts = drawn(run)
    again = sum(map(len, cohorts)) - len(set().union(*cohorts))
    assert again > 0
    assert sum(line["failures"] for line in run.rounds) == again
    assert sum(line["figures"]["privacy/refused"] for line in run.rounds) == again
    (note,) = failure_notes(run)
    assert note.endswith(f"trainings on devices failed ({again} refused)"), "nothing was simulated"
    assert set(EVERY_CLAIM) <= set(run.start["assumptions"])
    assert run.files["ledger"]["participations"].max() == 1
    assert 3.98 < run.rounds[-1]["example_epsilon_max"] <= 4.0
    known = ExampleLevel(noise_multiplier=run.start["privacy"]["example"]["noise_multiplier"])
    expected = by_hand(run, privacy=known, most=1).figures()
    assert run.rounds[-1]["example_epsilon_median"] == expected["example_epsilon_median"]


class Forgetful(FedAvg):
    """Sends no config of its own: devices would take every round for round 0."""

    reads = "activity"

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content["config"] = ConfigRecord({})
        return messages


class Insistent(FedAvg):
    """Asks every device twice."""

    reads = "activity"

    def configure_train(self, *args):
        ask = super().configure_train
        return [*ask(*args), *ask(*args)]


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (Forgetful, "sent server-round None and period None in round 1 and period 0"),
        (Insistent, "addressed device 0 twice in round 1, and both replies would have the same"),
    ],
)
def test_no_device_draws_the_same_noise_twice(strategy, says):
    bare = strategy(fraction_train=1.0, fraction_evaluate=0.0)
    with pytest.raises(ConfigError, match=says):
        replace(simulation(), strategy=bare).run(progress=False)


def test_who_is_drawn_does_not_depend_on_who_refuses():
    bound = ExampleLevel(noise_multiplier=1.0, delta=1e-4, max_participations=1)
    runs = [simulation(privacy=p).run(progress=False) for p in (PRIVATE, bound)]
    assert drawn(runs[0]) == drawn(runs[1])


def test_calibrated_noise_is_the_same_wherever_the_client_is_bound():
    """A node of Flower's runtime binds the client anew."""
    simulated = simulation(privacy=ExampleLevel(epsilon=4.0, max_participations=2))
    run = simulated.run(progress=False)
    there = simulated.client.bind(PEOPLE.cut(1), MODEL, simulated.seed)
    said = run.start["privacy"]["example"]
    assert said["noise_multiplier"] == there.privacy.noise_multiplier > 0
    assert said["delta"] == there.privacy.delta == 1e-5


@pytest.mark.parametrize("strategy", [FedAvg, lambda: FedProx(proximal_mu=0.5)])
def test_workers_do_not_change_the_model(strategy):
    runs = [simulation(strategy(), workers=w).run(progress=False) for w in (0, 3)]
    assert runs[0].summary["model_sha256"] == runs[1].summary["model_sha256"]
    other = simulation(strategy(), seed=1).run(progress=False)
    assert other.summary["model_sha256"] != runs[0].summary["model_sha256"]


def test_fedprox_pulls_back_what_noise_has_moved():
    def moved(strategy):
        client = NLUClient(learning_rate=0.1, local_steps=8, privacy=PRIVATE)
        run = simulation(strategy, client=client, schedule=Static(rounds=1)).run(progress=False)
        return sum(
            float((run.parameters[n] - p.detach()).norm()) for n, p in MODEL.named_parameters()
        )

    assert moved(FedProx(proximal_mu=3.0)) < 0.8 * moved(FedAvg())


@pytest.mark.parametrize("both", [False, True], ids=["example", "both"])
def test_a_run_that_was_interrupted_goes_on_with_its_ledger(tmp_path, monkeypatch, both):
    strategy = FedAvg()
    if both:
        strategy = PrivateAggregation(strategy, DeviceLevel(noise_multiplier=1.0, delta=1e-4))
    privacy = ExampleLevel(noise_multiplier=1.0, delta=1e-4, max_participations=2)
    whole = simulation(strategy, privacy).run(tmp_path / "whole", progress=False)
    write = Writer.round

    def stopping(writer, finished, *rest):
        line = write(writer, finished, *rest)
        if finished.round == 3:
            raise KeyboardInterrupt
        return line

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "round", stopping)
        with pytest.raises(KeyboardInterrupt):
            simulation(strategy, privacy).run(tmp_path / "run", progress=False)
    run = simulation(strategy, privacy).run(tmp_path / "run", resume=True, progress=False)
    assert run.summary["model_sha256"] == whole.summary["model_sha256"]
    assert run.rounds[-1]["figures"] == whole.rounds[-1]["figures"]
    assert run.rounds[-1]["example_epsilon_max"] == whole.rounds[-1]["example_epsilon_max"]
    for name, array in whole.files["ledger"].items():
        np.testing.assert_array_equal(array, run.files["ledger"][name])


def test_with_both_each_ledger_stands_beside_the_other():
    device = DeviceLevel(noise_multiplier=2.0, delta=1e-4)
    alone = simulation(
        PrivateAggregation(FedAvg(), device), client=NLUClient(), schedule=Static(rounds=3)
    ).run(progress=False)
    both = simulation(PrivateAggregation(FedAvg(), device), schedule=Static(rounds=3)).run(
        progress=False
    )
    line = both.rounds[-1]
    assert line["privacy_unit"] == "both"
    assert line["epsilon_max"] == alone.rounds[-1]["epsilon_max"] < np.inf
    assert line["example_epsilon_max"] == by_hand(both).figures()["example_epsilon_max"]
    assert {"epsilon_bound", "example_epsilon_bound"} <= both.files["ledger"].keys()
    assert both.start["privacy"]["noise_multiplier"] == 2.0
    assert both.start["privacy"]["example"]["noise_multiplier"] == 1.0


def test_with_both_there_is_one_delta_and_it_is_the_smaller_units():
    people = Population.load("home", devices=12)
    device = PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0))
    once = Static(rounds=1)
    run = simulation(device, ExampleLevel(noise_multiplier=1.0), schedule=once).run(progress=False)
    assert run.rounds[-1]["delta"] == min(1e-5, 0.1 / people.counts.sum())
    with pytest.raises(ConfigError, match=r"delta is 1e-06 at device level and 0\.0001"):
        other = DeviceLevel(noise_multiplier=1.0, delta=1e-6)
        simulation(PrivateAggregation(FedAvg(), other)).run(progress=False)


def test_what_is_unusual_about_the_devices_is_told_once():
    empty = np.repeat(np.arange(12), PEOPLE.counts.sum(axis=1)) == 3
    run = simulation(population=PEOPLE.without(empty), schedule=Static(rounds=1)).run(
        progress=False
    )
    told = "\n".join(run.start["assumptions"])
    held = PEOPLE.activity()
    light = int((held < 16).sum()) - (held[3] < 16)
    assert f"{light} devices hold fewer than 16 examples" in told
    assert "1 devices hold nothing in some period" in told


@pytest.mark.parametrize(
    ("privacy", "says"),
    [
        (ExampleLevel(noise_multiplier=1.0, delta=0.1), r"delta is 0\.1, but \d+ examples"),
        (
            ExampleLevel(epsilon=1e-9, delta=1e-30, max_participations=10**6),
            "no noise multiplier up to",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_before_the_first_round(tmp_path, privacy, says):
    with pytest.raises(ConfigError, match=says):
        simulation(privacy=privacy).run(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": "adamw"}, "optimizer is 'adamw', but example-level privacy is DP-SGD"),
        ({"privacy": ExampleLevel(clip_norm=np.inf, noise_multiplier=1.0)}, "clip_norm is inf"),
    ],
)
def test_clients_that_cannot_be_private_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        NLUClient(**{"privacy": PRIVATE, **options})
