"""Backends, ways of clipping and falling noise, from the options to the record."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from torch import nn

import experiments.recipe
from clients import NLUClient
from experiments.command_line import main
from experiments.options import RunOptions, client_of
from fedsim import ConfigError, Faults, Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from fedsim.models.joint import linear
from fedsim.models.tape import Blocks, Packed
from fedsim.privacy import ExampleLedger, ExampleLevel, NoiseDecay, epsilon
from fedsim.privacy.edp_sgd import edp_sgd, naive_reading
from fedsim.privacy.release import DeviceLevel
from fedsim.record import Writer
from fedsim.training import dpsgd, poisson
from strategies import PrivateAggregation, Selective, UniformSelection

PEOPLE = Population.load("home", devices=8)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
BACKENDS = ("book-keeping", "opacus-hooks", "opacus-ghost")
WAYS = ("flat", "automatic", "per-layer", "adaptive", "edp-sgd")


def options(**given) -> RunOptions:
    return RunOptions(**{"dp": "example", "noise_multiplier": 1.0, "delta": 1e-4, **given})


def simulation(strategy=None, model=MODEL, **given) -> Simulation:
    faults = given.pop("faults", None)
    return Simulation(
        population=PEOPLE,
        model=model,
        client=client_of(options(**given)),
        strategy=Selective(strategy or FedAvg(), UniformSelection(cohort=4)),
        schedule=Static(rounds=3),
        workers=0,
        faults=faults,
    )


def assert_close(one, other, tolerance=1e-5):
    for name, p in one.items():
        torch.testing.assert_close(p, other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_all_backends_end_at_the_same_model(sigma):
    """The same batches and the same noise: with none, and with some."""
    ours, *theirs = (
        simulation(dp_backend=name, noise_multiplier=sigma).run(progress=False) for name in BACKENDS
    )
    assert any(not torch.equal(ours.parameters[n], p) for n, p in MODEL.named_parameters())
    for run in theirs:
        assert not run.cohorts["failed"].size
        assert_close(run.parameters, ours.parameters)
        assert run.rounds[-1]["example_epsilon_max"] == ours.rounds[-1]["example_epsilon_max"]


class Gated(BiLSTMTagger):
    """A tagger with a layer that the kernel does not know."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.gate_weight = nn.Parameter(torch.empty(4, 4))
        self.gate_bias = nn.Parameter(torch.empty(4))

    def encode(self, parameters, words, packing):
        weight, bias = parameters["gate_weight"], parameters["gate_bias"]
        return super().encode(parameters, words @ weight.T + bias, packing)


class Noted(Gated):
    """The same, from the layer functions that the kernel knows."""

    def encode(self, parameters, words, packing):
        weight, bias = parameters["gate_weight"], parameters["gate_bias"]
        words = linear(words, weight, bias, Packed(packing))
        return BiLSTMTagger.encode(self, parameters, words, packing)


def test_layers_the_kernel_does_not_know_are_trained_exactly_and_told_once(caplog):
    one, other = (kind.sized_for(PEOPLE, embedding=4, hidden=4) for kind in (Gated, Noted))
    slow, fast = (simulation(model=model).run(progress=False) for model in (one, other))
    assert_close(slow.parameters, fast.parameters)
    (said,) = [s for s in slow.start["assumptions"] if "gate_weight, gate_bias" in s]
    assert "every example passes the model alone" in said
    assert [r.getMessage() for r in caplog.records].count(said) == 1
    assert not any("gate" in s for s in fast.start["assumptions"])


class Averaged(BiLSTMTagger):
    """A tagger whose loss is an average over the batch."""

    def losses(self, parameters, batch):
        return super().losses(parameters, batch) / batch["lengths"].sum()


class BatchNormalised(BiLSTMTagger):
    """A tagger with batch norm."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.norm = nn.BatchNorm1d(4)


class Tied(BiLSTMTagger):
    """A tagger with one tensor under two names."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.second_bias = self.intent_bias


class Positioned(Gated):
    """A tagger that looks positions up once for all examples."""

    def encode(self, parameters, words, packing):
        weight, bias = parameters["gate_weight"], parameters["gate_bias"]
        at = linear(words.new_ones(1, 4), weight, bias, Blocks(1))
        return BiLSTMTagger.encode(self, parameters, words + at, packing)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Averaged, "changes with who else is in the batch; give each example a loss of its own"),
        (BatchNormalised, "module norm is a BatchNorm1d, .*; use nn.LayerNorm or nn.GroupNorm"),
        (Tied, "intent_bias and second_bias are one tensor, .*; give each layer a parameter"),
        (Positioned, "position ids: expand them over the batch"),
    ],
)
def test_a_model_without_gradients_of_single_examples_is_refused_before_it_trains(
    kind, says, tmp_path, monkeypatch, capsys
):
    model = kind.sized_for(PEOPLE, embedding=4, hidden=4)
    with pytest.raises(ConfigError, match=says):
        simulation(model=model).run(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(experiments.recipe, "model_of", lambda *_: model)
    assert main(["run", "--devices", "8", "--cohort", "4", "--dp", "example"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def done(monkeypatch):
    """What private steps really do: (noise on the sum, on the bits, in clip norms) and rates."""
    noises, rates = [], []
    noise, draw = dpsgd.DPSGD._noise, poisson.poisson

    def noted(self, state, split, expected):
        noises.append((float(split.sum), float(split.bits)))
        return noise(self, state, split, expected)

    def drawn(examples, rate, steps, stream):
        rates.extend([rate if examples else 0.0] * steps)
        return draw(examples, rate, steps, stream)

    monkeypatch.setattr(dpsgd.DPSGD, "_noise", noted)
    monkeypatch.setattr(poisson, "poisson", drawn)
    return noises, rates


@pytest.fixture
def charged(monkeypatch):
    """(noise multiplier, sensitivity, rate) of every step that the honest ledger is charged."""
    ledgers, charge = {}, ExampleLedger.charge

    def noted(self, device, events):
        events = list(events)
        charge(self, device, events)
        for e in events:
            step = (e.noise_multiplier, e.sensitivity, e.rate)
            ledgers.setdefault(id(self), []).extend([step] * e.steps)

    monkeypatch.setattr(ExampleLedger, "charge", noted)
    # The naive reading of a participation is charged after it.
    return lambda: next(iter(ledgers.values()))


@pytest.mark.parametrize("decay", [None, "0.7:20"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_charged_is_what_was_done(way, decay, done, charged):
    """Sum and clip bits together cost one Gaussian: sigma^-2 = sum^-2 + (2 bits)^-2."""
    simulation(clipping=way, noise_decay=decay, local_epochs=2).run(progress=False)
    noises, rates = done
    bound, steps = 2.0 if way == "edp-sgd" else 1.0, charged()
    assert [each for _, each, _ in steps] == pytest.approx([bound] * len(steps))
    bits = [(2 * b) ** -2 if b else 0.0 for _, b in noises]
    used = [(s**-2 + b) ** -0.5 for (s, _), b in zip(noises, bits, strict=True)]
    assert any(bits) == (way == "adaptive")
    got = Counter((round(s, 6), round(q, 9)) for s, q in zip(used, rates, strict=True))
    assert got == Counter((round(s, 6), round(q, 9)) for s, _, q in steps)


@pytest.mark.parametrize("both", [False, True], ids=["example", "both"])
@pytest.mark.parametrize("way", ["adaptive", "edp-sgd"])
def test_a_run_that_was_interrupted_ends_where_it_would_have(tmp_path, monkeypatch, way, both):
    given = {"clipping": way, "noise_decay": "0.7:20", "local_epochs": 2}
    given |= {"faults": Faults(dropout=0.3, nan=0.1, error=0.1)}

    def made():
        mechanism = DeviceLevel(noise_multiplier=1.0, delta=1e-4)
        return simulation(PrivateAggregation(FedAvg(), mechanism) if both else None, **given)

    whole = made().run(tmp_path / "whole", progress=False)
    write = Writer.round

    def stopping(writer, finished, *rest):
        line = write(writer, finished, *rest)
        if finished.round == 2:
            raise KeyboardInterrupt
        return line

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "round", stopping)
        with pytest.raises(KeyboardInterrupt):
            made().run(tmp_path / "run", progress=False)
    run = made().run(tmp_path / "run", resume=True, progress=False)
    assert run.summary["model_sha256"] == whole.summary["model_sha256"]
    for name in ("example_epsilon_max", "privacy/example_epsilon_naive"):
        assert run.summary[name] == whole.summary[name]


def test_the_naive_reading_stands_beside_the_honest_claim_and_is_labelled():
    run = simulation(clipping="edp-sgd", noise_decay="0.8:10", local_epochs=2).run(progress=False)
    client = client_of(options(clipping="edp-sgd", noise_decay="0.8:10", local_epochs=2))
    trainer = client.bind(PEOPLE.cut(1), MODEL, 0)
    private = edp_sgd(
        ExampleLevel(noise_multiplier=1.0, delta=1e-4),
        dict(MODEL.named_parameters()),
        steps_an_epoch=10,
        factor=0.8,
    )
    assert trainer.privacy == private
    taken = run.files["ledger"]["participations"].tolist()

    def worst(mechanism):
        return max(
            epsilon(mechanism.participation(held, trainer.local) * times, 1e-4)
            for held, times in zip(PEOPLE.activity().tolist(), taken, strict=True)
        )

    assert run.summary["example_epsilon_max"] == pytest.approx(worst(private))
    naive = run.summary["privacy/example_epsilon_naive"]
    assert naive == pytest.approx(worst(naive_reading(private)))
    assert naive < run.summary["example_epsilon_max"]
    assert sum("it is no bound on anything" in s for s in run.start["assumptions"]) == 1


@pytest.mark.parametrize("way", ["flat", "automatic", "per-layer", "adaptive"])
def test_where_a_naive_reading_is_right_there_is_none(way):
    run = simulation(clipping=way).run(progress=False)
    assert "privacy/example_epsilon_naive" not in run.summary
    assert not any("naive" in s for s in run.start["assumptions"])
    assert run.summary["example_epsilon_max"] == pytest.approx(
        simulation().run(progress=False).summary["example_epsilon_max"]
    )


def test_thresholds_of_layers_stand_in_the_record_and_follow_from_sizes_alone():
    run = simulation(clipping="per-layer").run(progress=False)
    scales = run.start["privacy"]["example"]["clipping"]["scales"]
    total = sum(p.numel() for p in MODEL.parameters())
    assert scales["embedding"] == pytest.approx((MODEL.embedding.numel() / total) ** 0.5)
    assert sum(s**2 for s in scales.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dp_backend": "opacus-hooks", "clipping": "automatic"}, "clipping is Automatic; choose"),
        ({"dp_backend": "opacus-ghost", "clipping": "adaptive"}, "clipping is adaptive; choose"),
        ({"dp_backend": "opacus-ghost", "clipping": "edp-sgd"}, "clipping is MicroBatches; choose"),
        ({"noise_decay": "0.9"}, "noise_decay is '0.9'; expected FACTOR:STEPS, such as 0.9:10"),
        ({"noise_decay": "2:5"}, "factor of the noise decay is 2"),
        ({"noise_decay": "nan:5"}, "factor of the noise decay is nan"),
        ({"noise_decay": "0.9:0"}, "every of the noise decay is 0"),
    ],
)
def test_what_cannot_be_clipped_or_noised_so_is_refused_with_the_options(given, says):
    with pytest.raises(ConfigError, match=says):
        client_of(options(**given))


@pytest.mark.parametrize("dp", ["none", "device"])
@pytest.mark.parametrize(
    "given",
    [{"clipping": "automatic"}, {"noise_decay": "0.9:5"}, {"dp_backend": "opacus-hooks"}],
)
def test_options_of_examples_are_refused_where_no_example_is_protected(dp, given):
    with pytest.raises(ConfigError, match=f"which --dp {dp} does not use"):
        client_of(RunOptions(dp=dp, **given))


def test_backends_are_for_private_devices():
    with pytest.raises(ConfigError, match="devices without privacy clip nothing"):
        NLUClient(dp_backend="opacus-hooks")
    with pytest.raises(ConfigError, match=r"dp_backend is 'opacus' .*choose one of book-keeping"):
        NLUClient(privacy=ExampleLevel(noise_multiplier=1.0), dp_backend="opacus")


def test_decay_is_read_into_what_the_devices_use():
    private = client_of(options(noise_decay="0.9:10")).privacy
    assert private.decay == NoiseDecay(factor=0.9, every=10)
    assert replace(private, decay=NoiseDecay()) == client_of(options()).privacy
    assert np.isclose(private.decay.at(20), 0.81)
