"""Central training sees all data, learns, and leaves the same record as a simulation."""

import numpy as np
import pytest

import experiments.central
from experiments.central import PRIVATE_BATCH_SIZE, all_training_examples, run_central
from experiments.options import RunOptions, population_of
from fedsim import ConfigError, compare, load_run
from fedsim.privacy import Gaussian, epsilon
from fedsim.training import dpsgd

OPTIONS = RunOptions(devices=4, seed=2)


@pytest.fixture(scope="module")
def central(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(experiments.central, "EPOCHS", 3)
    yield run_central(OPTIONS, tmp_path_factory.mktemp("central") / "run")
    patch.undo()


def test_it_trains_on_every_training_example_of_every_device():
    people = population_of(OPTIONS)
    everything = all_training_examples(people)
    assert len(everything) == people.counts.sum()
    assert np.bincount(everything.device).tolist() == people.counts.sum(axis=1).tolist()


def test_it_learns(central):
    losses = [line["train_loss"] for line in central.rounds]
    assert losses == sorted(losses, reverse=True)
    assert central.summary["intent_accuracy"] > central.start["untrained"]["intent_accuracy"]


def test_an_epoch_stands_where_a_round_does(central):
    assert [line["round"] for line in central.rounds] == [1, 2, 3]
    assert central.config["rounds"] == central.summary["rounds"] == 3
    assert {line["cohort_size"] for line in central.rounds} == {0}
    total = central.start["training_examples"]
    assert {line["cohort_examples"] for line in central.rounds} == {total}


def test_the_record_says_how_it_was_trained(central):
    how = {"optimizer": "AdamW", "learning_rate": 0.002, "batch_size": 32}
    assert central.config["central"] == how


def test_it_reads_back_and_prints_like_any_run(central):
    again = load_run(central.path)
    assert again.rounds == central.rounds
    assert again.config == central.config
    assert "central" in again.table().caption
    assert [row["selection"] for row in compare([again]).rows] == ["central"]


def test_it_is_deterministic(central, monkeypatch):
    monkeypatch.setattr(experiments.central, "EPOCHS", 3)
    assert run_central(OPTIONS, None).summary["model_sha256"] == central.summary["model_sha256"]


def test_a_refused_corpus_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError):
        run_central(RunOptions(corpus="nowhere.jsonl"), tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def private(**options):
    patched = {"dp": "example", "noise_multiplier": 0.7, "delta": 1e-5, **options}
    return RunOptions(devices=4, seed=2, **patched)


def test_private_central_training_has_one_account_of_every_epochs_steps(monkeypatch):
    monkeypatch.setattr(experiments.central, "EPOCHS", 2)
    run = run_central(private(), None)
    examples = run.start["training_examples"]
    steps = -(-examples // PRIVATE_BATCH_SIZE)
    step = Gaussian(noise_multiplier=0.7, rate=min(1, PRIVATE_BATCH_SIZE / examples), steps=1)
    for epoch, line in enumerate(run.rounds, start=1):
        expected = epsilon([step.times(epoch * steps)], 1e-5)
        assert line["example_epsilon_max"] == pytest.approx(expected, rel=1e-6)
        assert (line["privacy_unit"], line["epsilon_max"]) == ("example", np.inf)
    assert run.config["central"]["optimizer"] == "DPSGD"
    again = run_central(private(), None)
    assert again.summary["model_sha256"] == run.summary["model_sha256"]


def test_private_central_training_says_what_it_assumes_of_rounding(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.central, "EPOCHS", 1)
    options = RunOptions(devices=2, dp="example", precision="bfloat16", secure_noise=True)
    said = " ".join(run_central(options, tmp_path / "run").start["assumptions"])
    assert "passes run in bfloat16" in said and "operating system" in said


def test_noise_that_falls_over_all_epochs_is_charged_as_it_was_drawn(monkeypatch):
    monkeypatch.setattr(experiments.central, "EPOCHS", 3)
    used, noise = [], dpsgd.DPSGD._noise

    def noted(self, state, split, expected):
        used.append(split.sum)
        return noise(self, state, split, expected)

    monkeypatch.setattr(dpsgd.DPSGD, "_noise", noted)
    run = run_central(private(noise_decay="0.8:1"), None)
    examples = run.start["training_examples"]
    steps, rate = -(-examples // PRIVATE_BATCH_SIZE), min(1, PRIVATE_BATCH_SIZE / examples)
    assert used == pytest.approx([0.7 * 0.8**t for t in range(3 * steps)])
    for epoch, line in enumerate(run.rounds, start=1):
        events = [Gaussian(noise_multiplier=s, rate=rate) for s in used[: epoch * steps]]
        assert line["example_epsilon_max"] == pytest.approx(epsilon(events, 1e-5), rel=1e-6)
        naive = epsilon([Gaussian(noise_multiplier=0.7, rate=rate, steps=epoch * steps)], 1e-5)
        assert line["figures"]["privacy/example_epsilon_naive"] == pytest.approx(naive, rel=1e-6)


@pytest.mark.parametrize("way", [{"noise_decay": "0.9:2"}, {"clipping": "edp-sgd"}])
def test_a_private_central_run_keeps_to_its_target_however_it_clips(monkeypatch, way):
    monkeypatch.setattr(experiments.central, "EPOCHS", 2)
    run = run_central(private(noise_multiplier=None, epsilon=3.0, **way), None)
    assert 2.98 < run.summary["example_epsilon_max"] <= 3.0


def test_a_private_central_run_keeps_to_its_target(monkeypatch):
    monkeypatch.setattr(experiments.central, "EPOCHS", 2)
    run = run_central(private(noise_multiplier=None, epsilon=3.0), None)
    assert 2.98 < run.summary["example_epsilon_max"] <= 3.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dp": "device", "noise_multiplier": 1.0}, "dp is 'device', but central training has no"),
        ({"max_participations": 3}, "max_participations is 3, but central training has no"),
        ({"optimizer": "adamw"}, "optimizer is 'adamw', but example-level"),
    ],
)
def test_privacy_that_central_training_cannot_have_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        run_central(private(**options), None)
