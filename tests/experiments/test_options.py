"""Option names become the objects they name, with the values that were given."""

import dataclasses

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from experiments.options import (
    RunOptions,
    check_options,
    client_of,
    model_of,
    panel_of,
    policy_of,
    population_of,
    schedule_of,
    strategy_of,
)
from fedsim import ConfigError, Continual, Static
from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.privacy import ExampleLevel
from strategies import (
    ActivitySelection,
    LogActivitySelection,
    SoftmaxSelection,
    TopActivitySelection,
    UniformSelection,
)


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({}, UniformSelection(cohort=7)),
        ({"selection": "log", "cap": 0.5}, LogActivitySelection(cohort=7, cap=0.5)),
        ({"selection": "sqrt", "cap": 0.5}, ActivitySelection(cohort=7, power=0.5, cap=0.5)),
        ({"selection": "activity", "power": 2}, ActivitySelection(cohort=7, power=2)),
        (
            {"selection": "softmax", "temperature": 3, "cap": 0.5},
            SoftmaxSelection(cohort=7, temperature=3, cap=0.5),
        ),
        ({"selection": "top"}, TopActivitySelection(cohort=7)),
    ],
)
def test_selection(options, policy):
    assert policy_of(RunOptions(cohort=7, **options)) == policy


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fedavg", flower.FedAvg),
        ("fedavgm", flower.FedAvgM),
        ("fedadam", flower.FedAdam),
        ("fedprox", flower.FedProx),
        ("fedmedian", flower.FedMedian),
    ],
)
def test_strategy(name, kind):
    selective = strategy_of(RunOptions(strategy=name, draw="fixed"))
    assert type(selective.strategy) is kind
    assert selective.draw == "fixed"
    assert selective.weighting == ("none" if name == "fedmedian" else "examples")


def test_the_proximal_weight_goes_to_the_server_under_fedprox_and_to_the_client_otherwise():
    fedprox = RunOptions(strategy="fedprox", proximal_mu=0.3)
    assert (strategy_of(fedprox).strategy.proximal_mu, client_of(fedprox).proximal_mu) == (0.3, 0)
    assert strategy_of(RunOptions(strategy="fedprox")).strategy.proximal_mu == 0.01
    assert client_of(RunOptions(proximal_mu=0.3)).proximal_mu == 0.3
    assert client_of(RunOptions()).proximal_mu == 0


def test_client():
    given = {
        "batch_size": 3,
        "local_epochs": 2,
        "local_steps": 5,
        "optimizer": "adamw",
        "learning_rate": 0.7,
    }
    client = client_of(RunOptions(**given))
    assert {name: getattr(client, name) for name in given} == given


def test_privacy_of_examples():
    alone = RunOptions(dp="example", noise_multiplier=0.7, clip_norm=2.0, delta=1e-6)
    expected = ExampleLevel(noise_multiplier=0.7, clip_norm=2.0, delta=1e-6)
    assert client_of(alone).privacy == expected
    assert type(strategy_of(alone).strategy) is flower.FedAvg
    assert client_of(RunOptions(dp="device")).privacy is None
    target = RunOptions(dp="example", epsilon=8, max_participations=5, secure_noise=True)
    assert client_of(target).privacy == ExampleLevel(
        epsilon=8, max_participations=5, secure_noise=True
    )


def test_with_both_examples_have_noise_of_their_own():
    options = RunOptions(dp="both", epsilon=3, example_noise_multiplier=0.5, example_clip_norm=4)
    assert client_of(options).privacy == ExampleLevel(noise_multiplier=0.5, clip_norm=4)
    assert strategy_of(options).strategy.mechanism.epsilon == 3


def test_schedule():
    assert schedule_of(RunOptions(rounds=9)) == Static(rounds=9)
    continual = RunOptions(setting="continual", rounds=9, periods=3, keep="window:2", by="clock")
    assert schedule_of(continual) == Continual(rounds=9, periods=3, keep="window:2", by="clock")


def test_model_follows_name_and_seed():
    people = population_of(RunOptions(devices=4))
    assert people.devices == 4
    assert isinstance(model_of(RunOptions(model="transformer"), people), TransformerTagger)
    one, same, other = (model_of(RunOptions(seed=s), people).intent_weight for s in (1, 1, 2))
    assert isinstance(model_of(RunOptions(), people), BiLSTMTagger)
    assert one.equal(same)
    assert not one.equal(other)


def test_a_panel_is_of_500_utterances_or_of_all_where_there_are_fewer():
    assert panel_of(RunOptions(devices=4), population_of(RunOptions(devices=4))) is None
    for devices in (3, 60):
        people = population_of(RunOptions(devices=devices))
        panel = panel_of(RunOptions(leakage=True), people)
        assert panel.unit == "example"
        assert len(panel) == min(500, people.counts.sum())


def test_a_population_without_training_data_has_no_panel():
    people = population_of(RunOptions(devices=3))
    nothing = people.without(np.ones(people.starts[-1], bool))
    with pytest.raises(ConfigError, match="the population has none; add some"):
        panel_of(RunOptions(leakage=True), nothing)


def test_defaults_are_those_of_the_design():
    defaults = dataclasses.asdict(RunOptions())
    expected = {
        "corpus": "home",
        "model": "bilstm",
        "setting": "static",
        "rounds": 100,
        "periods": 5,
        "by": "device",
        "keep": "current",
        "cohort": 32,
        "selection": "uniform",
        "power": 1,
        "cap": 1,
        "draw": "poisson",
        "weighting": "auto",
        "strategy": "fedavg",
        "batch_size": 16,
        "optimizer": "sgd",
        "seed": 0,
    }
    assert {name: defaults[name] for name in expected} == expected


def test_columns_are_read_as_pairs(tmp_path):
    path = tmp_path / "talk.csv"
    path.write_text("who,said,meant\n" + "ann,turn it on,on\nbob,turn it off,off\n" * 10)
    people = population_of(RunOptions(corpus=str(path), columns="user=who, text=said,intent=meant"))
    assert people.devices == 2
    assert set(people.inventory.intents) >= {"on", "off"}


def test_people_are_the_same_whatever_the_seed_of_the_run(tmp_path):
    path = tmp_path / "talk.csv"
    path.write_text("text,intent\n" + "turn it on,on\nturn it off,off\n" * 40)
    given = {"corpus": str(path), "devices": 4}
    dealt = [
        population_of(RunOptions(seed=seed, partition=partition, **given)).fingerprint
        for partition in ("iid", "dirichlet:0.1")
        for seed in (0, 1)
    ]
    assert dealt[0] == dealt[1] != dealt[2] == dealt[3]


def test_a_partition_named_is_the_one_that_goes_without_saying(data_folder):
    given = {"corpus": "snips", "data": str(data_folder), "devices": 5, "seed": 3}
    one, two = (population_of(RunOptions(partition=p, **given)) for p in (None, "iid"))
    assert one.fingerprint == two.fingerprint


def test_a_population_is_read_once_until_its_file_changes(tmp_path):
    path = tmp_path / "talk.csv"
    path.write_text("user,text,intent\n" + "ann,turn it on,on\nbob,turn it off,off\n" * 10)
    options = RunOptions(corpus=str(path))
    first = population_of(options)
    assert population_of(dataclasses.replace(options, seed=4, rounds=7)) is first
    path.write_text(path.read_text() + "eve,turn it up,up\n" * 10)
    assert population_of(options).devices == 3


def test_a_population_follows_the_folder_of_the_data(monkeypatch, tmp_path):
    first = population_of(RunOptions(devices=4))
    assert population_of(RunOptions(devices=4)) is first
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    assert population_of(RunOptions(devices=4)) is not first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"selection": "activity", "cap": 0.0}, "cap is 0"),
        ({"strategy": "fedmedian", "weighting": "equal"}, "FedMedian ignores weights"),
        ({"setting": "continual", "rounds": 2}, "choose 5 rounds or more"),
        ({"columns": "user"}, "expected name=column pairs"),
        ({"max_participations": 3}, "max-participations is 3, which --dp none does not use"),
        ({"secure_noise": True}, "secure-noise has no effect without noise"),
        ({"adjacency": "add-remove", "dp": "example"}, "--dp example does not use; choose"),
        ({"dp": "device", "example_clip_norm": 1.0}, "example-clip-norm is 1.0, which --dp device"),
        ({"dp": "example", "example_noise_multiplier": 1.0}, "which --dp example does not use"),
        ({"dp": "example", "weight_cap": 1.0}, "weight-cap is 1.0, which --dp example"),
        ({"dp": "example", "smallest_rate": 0.1}, "smallest-rate is 0.1, which --dp example"),
        ({"dp": "example", "clip_norm": 0.0}, "clip_norm is 0.0; choose more than 0"),
        ({"dp": "example", "noise_multiplier": -1.0}, "noise_multiplier is -1.0; choose 0"),
        ({"dp": "example", "delta": 1.0}, "delta is 1.0; choose a probability"),
        ({"dp": "example", "epsilon": 8.0}, "epsilon is 8.0 without max_participations"),
        ({"dp": "example", "optimizer": "adamw"}, "optimizer is 'adamw', but example-level"),
    ],
)
def test_what_cannot_be_run_is_refused_without_reading_a_corpus(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_options(RunOptions(corpus="nowhere.csv", **options))


def test_inverse_rates_under_add_remove_stop_at_the_public_smallest_rate():
    options = RunOptions(
        dp="device",
        adjacency="add-remove",
        weighting="inverse-rate",
        selection="activity",
        cap=0.5,
        scale=0.01,
        weight_cap=1.0,
        denominator=8.0,
        example_cap=10,
        smallest_rate=0.1,
    )
    activity = np.array([4, 20, 40])
    plan = strategy_of(options).plan(1, 0, activity, seed=0)
    assert plan.device_weights == pytest.approx([0.4, 1.0 * 0.1 / 0.2, 1.0 * 0.1 / 0.4])
    with pytest.raises(ConfigError, match="which needs a public smallest_rate"):
        strategy_of(dataclasses.replace(options, smallest_rate=None)).plan(1, 0, activity, seed=0)


@pytest.mark.parametrize("columns", ["user", "user=", "=who", "user=who,,text=said", ""])
def test_columns_that_are_no_pairs_are_refused(columns):
    with pytest.raises(ConfigError, match="expected name=column pairs joined by commas"):
        population_of(RunOptions(corpus="talk.csv", columns=columns))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rounds": 0}, "rounds is 0; choose 1 or more"),
        ({"cohort": 0}, "cohort is 0; choose 1 or more"),
        ({"seed": -1}, "seed is -1; choose 0 or more"),
        ({"periods": 0}, "periods is 0; choose 1 or more"),
        ({"keep": "half"}, "keep is 'half'; expected current, all"),
        ({"proximal_mu": -1.0}, "proximal_mu is -1.0; choose 0"),
        ({"power": 2.0}, "power is 2, which --selection uniform does not use"),
        ({"temperature": 2.0, "selection": "log"}, "--selection log does not use; choose"),
        ({"cap": 0.5, "selection": "top"}, "choose log, sqrt, activity or softmax"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        RunOptions(**options)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": -1}, r"workers is -1; choose 0 \(inline\) or more"),
        ({"device": "cuda"}, "device is 'cuda', but --engine local trains on the processor"),
        ({"workers": 0, "engine": "flower"}, "workers is 0, which trains inline, and --engine fl"),
        ({"evaluate_every": 0}, "evaluate_every is 0; choose 1 or more"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0; choose 1 or more"),
        ({"leakage": True, "leakage_every": 0}, r"leakage_every is 0; choose 1 \(every round\)"),
        ({"leakage_every": 5}, "leakage_every is 5, which has no effect without --leakage; add it"),
    ],
)
def test_what_needs_no_corpus_is_refused_with_the_options(given, said):
    with pytest.raises(ConfigError, match=said):
        RunOptions(**given)
