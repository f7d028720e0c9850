"""Passes in bfloat16, from the options of a run to its record and its ledger."""

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import load_file
from torch import nn

from clients import NLUClient
from experiments.options import client_of
from experiments.run_options import RunOptions
from fedsim import ConfigError, Population, Simulation, Static
from fedsim.models import BiLSTMTagger, ModuleTagger, TransformerTagger
from fedsim.privacy import Automatic, ExampleLevel, LocalSteps, PerLayer, epsilon
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.rounding import TAU
from fedsim.record import Writer
from strategies import Selective, UniformSelection

PEOPLE = Population.load("home", devices=12)
MODELS = {
    "bilstm": BiLSTMTagger.sized_for(PEOPLE, embedding=8, hidden=8),
    "transformer": TransformerTagger.sized_for(PEOPLE, embedding=8, layers=1, heads=2),
}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
PRIVATE = ExampleLevel(noise_multiplier=1.0, delta=1e-4, max_participations=3)


def simulation(model=MODELS["bilstm"], rounds=3, people=PEOPLE, cohort=5, engine=None, **client):
    engine = engine or {"workers": 0}
    return Simulation(
        population=people,
        model=model,
        client=NLUClient(**{"precision": "bfloat16"} | client),
        strategy=Selective(FedAvg(), UniformSelection(cohort=cohort)),
        schedule=Static(rounds=rounds),
        evaluate_every=rounds,
        **engine,
    )


@EVERY_MODEL
@pytest.mark.parametrize("privacy", [None, PRIVATE], ids=["ordinary", "private"])
def test_workers_do_not_change_the_model_and_it_stays_float32(tmp_path, model, privacy):
    runs = [
        simulation(model, privacy=privacy, engine={"workers": w}).run(
            tmp_path / f"{w}", progress=False
        )
        for w in (0, 3)
    ]
    assert runs[0].summary["model_sha256"] == runs[1].summary["model_sha256"]
    exact = simulation(model, privacy=privacy, precision="float32").run(progress=False)
    assert exact.summary["model_sha256"] != runs[0].summary["model_sha256"]
    saved = load_file(tmp_path / "0" / "model.safetensors")
    assert {p.dtype for p in saved.values()} == {torch.float32}
    # Not what bfloat16 could hold: updates have been added in float32.
    assert not all(torch.equal(p, p.bfloat16().float()) for p in saved.values())
    assert runs[0].config["simulation"]["client"]["precision"] == "bfloat16"


@EVERY_MODEL
def test_stacked_devices_end_near_those_one_by_one(model):
    """Without noise, which engines draw apart: within a tenth of the way."""
    quiet = ExampleLevel(noise_multiplier=0.0, delta=1e-4)
    ends = [
        simulation(model, privacy=quiet, engine=engine).run(progress=False).parameters
        for engine in ({"workers": 0}, {"engine": "batched", "device": "cpu"})
    ]
    start = {name: p.detach() for name, p in model.named_parameters()}
    away = sum(float((ends[0][n] - ends[1][n]).square().sum()) for n in start) ** 0.5
    way = sum(float((ends[0][n] - p).square().sum()) for n, p in start.items()) ** 0.5
    assert 0 < away < 0.1 * way


def test_it_learns_as_in_float32():
    people = Population.load("home", devices=30)
    model = BiLSTMTagger.sized_for(people, embedding=16, hidden=16)
    ends = [
        simulation(model, 10, people, 12, precision=p).run(progress=False).rounds[-1]
        for p in ("float32", "bfloat16")
    ]
    exact, half = (line["intent_accuracy"] for line in ends)
    assert exact > 0.5 and abs(half - exact) < 0.1


def test_an_epsilon_is_above_that_of_float32_and_by_no_more_than_tau_explains():
    half, exact = (
        simulation(privacy=PRIVATE, precision=p).run(progress=False)
        for p in ("bfloat16", "float32")
    )
    line, other = half.rounds[-1], exact.rounds[-1]
    for name in ("example_epsilon_max", "example_epsilon_median"):
        assert other[name] < line[name] < other[name] * (1 + 10 * TAU["bfloat16"])
    bounds = half.files["ledger"]["example_epsilon_bound"]
    charged = bounds > 0
    assert (bounds[charged] > exact.files["ledger"]["example_epsilon_bound"][charged]).all()
    assert half.start["privacy"]["example"]["precision"] == "bfloat16"
    told = [line for line in half.start["assumptions"] if "run in bfloat16" in line]
    assert len(told) == 1 and "exceeded the clip norm by 3.1e-05 of it" in told[0]
    assert not any("bfloat16" in line for line in exact.start["assumptions"])
    # Nothing that a naive reading would leave out: there is no second figure.
    assert "privacy/example_epsilon_naive" not in line["figures"]


@pytest.mark.parametrize("clipping", [PerLayer(scales={"a": 3.0, "b": 4.0}), Automatic()])
def test_every_way_of_clipping_is_priced_with_tau(clipping):
    exact = ExampleLevel(noise_multiplier=1.0, clipping=clipping)
    half = exact.sized_for({}, "bfloat16")
    assert half.sensitivity == exact.sensitivity * (1 + TAU["bfloat16"])


@pytest.mark.parametrize("mixed", [False, True], ids=["steady", "mixed"])
def test_calibrated_noise_pays_for_rounding_and_keeps_the_target(mixed):
    counts = np.array([[16, 40], [40, 16]] if mixed else [16, 40])
    local = LocalSteps(batch_size=16)
    target = ExampleLevel(epsilon=6.0, delta=1e-5, max_participations=4)
    known = target.sized_for({}, "bfloat16").calibrated(counts, local)
    for held in (16, 40):
        events = [event for _ in range(4) for event in known.participation(held, local)]
        assert {event.sensitivity for event in events} == {1 + TAU["bfloat16"]}
        assert epsilon(events, 1e-5) <= 6.0
    # Up to the search's own tolerance of 1e-4.
    assert known.noise_multiplier > target.calibrated(counts, local).noise_multiplier * (1 - 1e-4)


def test_a_run_that_was_interrupted_goes_on_with_its_ledger(tmp_path, monkeypatch):
    whole = simulation(privacy=PRIVATE).run(tmp_path / "whole", progress=False)
    write = Writer.round

    def stopping(writer, finished, *rest):
        line = write(writer, finished, *rest)
        if finished.round == 2:
            raise KeyboardInterrupt
        return line

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "round", stopping)
        with pytest.raises(KeyboardInterrupt):
            simulation(privacy=PRIVATE).run(tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="precision"):
        simulation(privacy=PRIVATE, precision="float32").run(tmp_path / "run", resume=True)
    run = simulation(privacy=PRIVATE).run(tmp_path / "run", resume=True, progress=False)
    assert run.summary["model_sha256"] == whole.summary["model_sha256"]
    assert run.rounds[-1]["example_epsilon_max"] == whole.rounds[-1]["example_epsilon_max"]


@pytest.mark.parametrize(
    ("client", "says"),
    [
        ({"precision": "float16"}, "precision is 'float16'; choose one of float32, bfloat16"),
        ({"privacy": PRIVATE, "dp_backend": "opacus-hooks"}, "precision is bfloat16.*opacus-hooks"),
        (
            {
                "privacy": ExampleLevel(
                    noise_multiplier=1.0, clipping=MicroBatches(size=4, within=PerLayer())
                )
            },
            "precision is bfloat16.*MicroBatches",
        ),
        (
            {
                "privacy": ExampleLevel(noise_multiplier=1.0, precision="bfloat16"),
                "precision": "float32",
            },
            "precision of privacy is not that of the client, float32",
        ),
    ],
)
def test_what_cannot_be_had_in_bfloat16_is_refused(client, says):
    with pytest.raises(ConfigError, match=says):
        NLUClient(**{"precision": "bfloat16"} | client)


class Bag(nn.Module):
    """Words without order; `codes` is added to them in a type of its own."""

    def __init__(self, own_type=None):
        super().__init__()
        self.words, self.intent = nn.Embedding(PEOPLE.vocabulary.rows, 8), nn.Linear(8, 33)
        self.slot, self.own_type = nn.Linear(8, len(PEOPLE.inventory.slot_labels)), own_type

    def forward(self, token_ids, lengths):
        inside = torch.arange(token_ids.shape[1]) < lengths.unsqueeze(-1)
        words = self.words(token_ids).sum(-2) * inside.unsqueeze(-1)
        words = words + torch.ones((), dtype=self.own_type or words.dtype) * torch.ones_like(words)
        words = words if self.own_type is None else words.to(self.own_type)
        return self.intent(words.sum(1)), self.slot(words)


def test_a_module_that_follows_its_parameters_is_trained_and_another_is_refused_before():
    run = simulation(ModuleTagger(Bag()), 2, privacy=PRIVATE).run(progress=False)
    assert [line["failures"] for line in run.rounds] == [0, 0]
    assert run.rounds[-1]["example_epsilon_max"] < np.inf
    with pytest.raises(ConfigError, match="precision is bfloat16, in which the model does not run"):
        simulation(ModuleTagger(Bag(torch.float32))).run(progress=False)


def test_the_option_reaches_devices_and_their_privacy():
    assert client_of(RunOptions(precision="bfloat16")).precision == "bfloat16"
    private = client_of(RunOptions(precision="bfloat16", dp="example"))
    bound = private.bind(PEOPLE.cut(1), MODELS["bilstm"], 0)
    assert bound.privacy.precision == bound.procedure(0.0).precision == "bfloat16"
    assert bound.privacy.sensitivity == 1 + TAU["bfloat16"]
