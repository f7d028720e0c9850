"""Cohorts as stacks behind a grid: the same run as `LocalGrid`'s, whatever fails on the way."""

import copy
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx
from torch import nn

from clients import NLUClient
from fedsim import ConfigError, Continual, Faults, Population, Simulation, Static
from fedsim.engine import batched
from fedsim.models import BiLSTMTagger, ModuleTagger, TransformerTagger
from fedsim.models.modules import noting
from fedsim.privacy import ExampleLevel
from fedsim.report.failures import failure_notes
from fedsim.training import chunks
from fedsim.training.chunks import ChunkPlan
from strategies import ActivitySelection, Selective

PEOPLE = Population.load("home", devices=16)
# A rate at which training is stable: where it is not, rounding grows with every step.
BILSTM = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=6)
PRIVATE = ExampleLevel(noise_multiplier=0.0, clip_norm=0.5)
FITS = 1_300_000
"""Bytes that are pretended to fit: three of these small devices, or a few more."""


class Bag(nn.Module):
    """Intents from the sum of the words, slots from each word."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(PEOPLE.vocabulary.rows, 6)
        self.mixed = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.LayerNorm(6))
        self.intent = nn.Linear(6, len(PEOPLE.inventory.intents))
        self.slot = nn.Linear(6, len(PEOPLE.inventory.slot_labels))

    def forward(self, token_ids, lengths):
        inside = torch.arange(token_ids.shape[1]) < lengths.unsqueeze(-1)
        words = self.mixed(self.words(token_ids).sum(-2)) * inside.unsqueeze(-1)
        return self.intent(words.sum(1)), self.slot(words)


class Recurrent(Bag):
    """The same over PyTorch's own LSTM, which knows no `vmap`."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def forward(self, token_ids, lengths):
        inside = torch.arange(token_ids.shape[1]) < lengths.unsqueeze(-1)
        words = self.lstm(self.words(token_ids).sum(-2))[0] * inside.unsqueeze(-1)
        return self.intent(words.sum(1)), self.slot(words)


@pytest.fixture(autouse=True)
def small_stacks(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_BYTES", FITS)
    monkeypatch.setattr(chunks, "SHARING", 1)


def simulation(**changes) -> Simulation:
    fields = {
        "population": PEOPLE,
        "model": BILSTM,
        "client": NLUClient(batch_size=8, learning_rate=0.1),
        "strategy": Selective(FedAvg(), ActivitySelection(cohort=8)),
        "schedule": Static(rounds=2),
        "workers": 0,
        "engine": "batched",
        "seed": 3,
    }
    return Simulation(**{**fields, **changes})


def assert_same_run(one, other, tolerance=1e-5):
    for name, p in one.parameters.items():
        torch.testing.assert_close(p, other.parameters[name], rtol=0, atol=tolerance)
    for mine, yours in zip(one.rounds, other.rounds, strict=True):
        for key in ("cohort_size", "cohort_examples", "failures", "train_loss"):
            assert (mine[key] or 0) == pytest.approx(yours[key] or 0, rel=1e-4)
    assert one.cohorts["arrived"].tolist() == other.cohorts["arrived"].tolist()


@pytest.fixture(scope="module")
def local():
    """The run of the local engine that others are held to."""
    return simulation(engine="local").run(progress=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": TransformerTagger.sized_for(PEOPLE, embedding=8, layers=1, heads=2)},
        {"client": NLUClient(proximal_mu=0.3, local_steps=2, learning_rate=0.1)},
        {"client": NLUClient(batch_size=8, learning_rate=0.1, privacy=PRIVATE)},
        {"client": NLUClient(learning_rate=0.1, privacy=replace(PRIVATE, max_participations=1))},
        {"strategy": Selective(FedProx(proximal_mu=0.2), ActivitySelection(cohort=8))},
        {"strategy": FedAdam(fraction_train=0.5, min_train_nodes=2)},
        {"schedule": Continual(periods=3, rounds=3, keep="reservoir:5")},
        {"faults": Faults(unavailable=0.1, dropout=0.2, nan=0.1, error=0.1, deadline=1.0)},
    ],
    ids=[
        "transformer",
        "proximal",
        "private",
        "refusals",
        "fedprox",
        "bare",
        "continual",
        "faults",
    ],
)
def test_a_run_equals_that_of_the_local_engine(changes):
    here = simulation(**changes).run(progress=False)
    there = simulation(engine="local", **changes).run(progress=False)
    assert_same_run(here, there)
    plan = here.start["chunks"]
    assert plan["devices"] >= 3 and plan["one_by_one"] is None
    assert there.start["chunks"] is None


def test_the_number_of_workers_changes_nothing_not_even_noise():
    private = NLUClient(privacy=ExampleLevel(noise_multiplier=1.0))
    runs = [simulation(client=private, workers=n).run(progress=False) for n in (0, 1, 3)]
    assert len({run.summary["model_sha256"] for run in runs}) == 1


class Reading(FedAvg):
    """Shows somebody what devices sent, before or after it has taken their mean."""

    def __init__(self, show, first):
        super().__init__(fraction_train=0.5, min_train_nodes=2)
        self.show, self.first = show, first

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        if self.first:
            self.show(replies)
        mean, metrics = super().aggregate_train(server_round, replies)
        read = replies if self.first else self.show(replies)
        weights = [reply.content["metrics"]["num-examples"] for reply in read]
        for name, array in mean.items():
            sent = [reply.content["arrays"][name].numpy() for reply in read]
            whole = np.average(sent, axis=0, weights=weights)
            np.testing.assert_allclose(array.numpy(), whole, atol=1e-5)
        return mean, metrics


@pytest.mark.parametrize("first", [True, False], ids=["before the mean", "after the mean"])
def test_whoever_looks_at_private_replies_sees_what_their_mean_is_of(first):
    private = NLUClient(privacy=ExampleLevel(noise_multiplier=1.0), batch_size=8)
    seen, runs = {0: [], 2: []}, []
    for workers, read in seen.items():

        def show(replies, read=read):
            read += [array.numpy() for r in replies for array in r.content["arrays"].values()]
            return replies

        strategy = Reading(show, first)
        run = simulation(client=private, strategy=strategy, workers=workers).run(progress=False)
        assert not any(line["failures"] for line in run.rounds)
        runs.append(run)
    assert len({run.summary["model_sha256"] for run in runs}) == 1
    assert seen[0] and all(map(np.array_equal, seen[0], seen[2]))


class Looking:
    """A probe that looks at replies."""

    def __init__(self):
        self.seen = []

    def observe(self, round, period, parameters, said):
        self.seen.append({device: read() for device, read in said.items()})

    def __call__(self, finished):
        return {}


def test_an_observer_of_private_replies_changes_nothing_and_sees_what_the_mean_is_of():
    private = NLUClient(privacy=ExampleLevel(noise_multiplier=1.0), batch_size=8)
    probe, strategy = Looking(), FedAvg(fraction_train=0.5, min_train_nodes=2)
    fields = {"client": private, "strategy": strategy, "schedule": Static(rounds=1)}
    alone = simulation(**fields).run(progress=False)
    watched = simulation(**fields, probes=[probe]).run(progress=False)
    assert watched.summary["model_sha256"] == alone.summary["model_sha256"]
    (seen,) = probe.seen
    weights = PEOPLE.activity(0)[list(seen)]
    for name, p in watched.parameters.items():
        mean = np.average([own[name].numpy() for own in seen.values()], axis=0, weights=weights)
        np.testing.assert_allclose(p.numpy(), mean, atol=1e-5)


class Folding(FedAvg):
    """Folds replies into the arrays that it was handed, as it may with Flower's own."""

    def __init__(self, copying):
        super().__init__(fraction_train=0.5, min_train_nodes=2)
        self.copying = copying

    def configure_train(self, server_round, arrays, config, grid):
        self.now = {name: array.numpy() for name, array in arrays.items()}
        if self.copying:
            self.now = copy.deepcopy(self.now)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        for reply in replies:
            for name, array in reply.content["arrays"].items():
                self.now[name] += 0.1 * (array.numpy() - self.now[name])
        return ArrayRecord({name: Array(value) for name, value in self.now.items()}), None


def test_what_a_strategy_does_to_the_arrays_it_is_handed_changes_nothing_for_devices():
    runs = [
        simulation(strategy=Folding(copying), engine=engine).run(progress=False)
        for engine in ("local", "batched")
        for copying in (False, True)
    ]
    digests = [run.summary["model_sha256"] for run in runs]
    assert digests[0] == digests[1] and digests[2] == digests[3]


def test_a_plain_run_is_that_of_the_local_engine_in_chunks_as_large_as_fits(tmp_path, local):
    here = simulation().run(tmp_path / "run", progress=False)
    assert_same_run(here, local)
    assert local.start["chunks"] is None
    plan = json.loads((tmp_path / "run" / "start.json").read_text())["chunks"]
    assert plan["where"] == "cpu" and plan["one_by_one"] is None
    assert plan["devices"] == max(1, FITS // plan["device_bytes"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["simulation"]["engine"] == {"name": "batched", "device": "auto"}


def test_a_run_goes_on_to_the_same_model(tmp_path):
    whole = simulation(schedule=Static(rounds=3)).run(progress=False)

    def stop(finished):
        if finished.round == 2 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        return {}

    cut = simulation(schedule=Static(rounds=3), probes=[stop])
    with pytest.raises(KeyboardInterrupt):
        cut.run(tmp_path / "run", progress=False)
    resumed = cut.run(tmp_path / "run", resume=True, progress=False)
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]


def narrow(fits, error, monkeypatch):
    """Let stacks of more than `fits` devices run out of memory."""
    true = batched.train_together
    sizes = []

    def train_together(trainer, parameters, devices, **options):
        sizes.append(len(devices))
        if len(devices) > fits:
            raise error
        return true(trainer, parameters, devices, **options)

    monkeypatch.setattr(batched, "train_together", train_together)
    return sizes


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), MemoryError("full")])
def test_a_stack_that_does_not_fit_is_halved_and_so_are_later_ones(
    error, monkeypatch, caplog, local
):
    monkeypatch.setattr(chunks, "CPU_BYTES", 1 << 40)
    sizes = narrow(3, error, monkeypatch)
    with caplog.at_level(logging.WARNING):
        run = simulation().run(progress=False)
    assert_same_run_but_for_the_figures(run, local)
    assert "not reproducible to the bit" in caplog.text
    halvings = [line["figures"].get("engine/out_of_memory", 0) for line in run.rounds]
    assert halvings[0] >= 1 and halvings[1] == 0
    assert max(sizes[-2:]) <= 3
    assert any("not reproducible" in note for note in failure_notes(run))


def assert_same_run_but_for_the_figures(one, other):
    for name, p in one.parameters.items():
        torch.testing.assert_close(p, other.parameters[name], rtol=0, atol=1e-5)


def test_in_a_stack_that_fails_devices_train_alone(monkeypatch, caplog, local):
    narrow(0, RuntimeError("no such kernel"), monkeypatch)
    run = simulation().run(progress=False)
    assert run.summary["model_sha256"] == local.summary["model_sha256"]
    apart = [line["figures"]["engine/one_by_one"] for line in run.rounds]
    assert apart == [line["cohort_size"] for line in run.rounds]
    assert "no such kernel" in caplog.text


def test_a_device_that_raises_fails_alone(monkeypatch):
    true = Population.held

    def held(self, device, period, seed=0):
        if device == 4:
            raise OSError("the disk is gone")
        return true(self, device, period, seed)

    monkeypatch.setattr(Population, "held", held)
    everybody = Selective(FedAvg(), ActivitySelection(cohort=16, power=0.0))
    plan = ChunkPlan(where="cpu", devices=8, device_bytes=0)
    monkeypatch.setattr("fedsim.simulation.planned", lambda *_: plan)
    runs = [
        simulation(strategy=everybody, engine=engine, schedule=Static(rounds=1)).run(progress=False)
        for engine in ("batched", "local")
    ]
    assert_same_run(*runs)
    assert [run.rounds[0]["figures"]["failures/train"] for run in runs] == [1, 1]


def test_where_stacks_are_too_small_to_be_faster_devices_train_one_by_one(monkeypatch, local):
    monkeypatch.setattr(chunks, "CPU_BYTES", 1)
    here = simulation().run(progress=False)
    assert here.start["chunks"]["one_by_one"] == "a stack of 1 on a processor is slower"
    assert here.summary["model_sha256"] == local.summary["model_sha256"]
    private = NLUClient(privacy=ExampleLevel(noise_multiplier=1.0))
    assert simulation(client=private).run(progress=False).start["chunks"]["one_by_one"] is None


def test_a_torch_module_runs_as_a_stack():
    model = ModuleTagger(Bag())
    run = simulation(model=model).run(progress=False)
    assert run.start["chunks"]["one_by_one"] is None
    assert_same_run(run, simulation(model=model, engine="local").run(progress=False))


@pytest.mark.parametrize(
    ("model", "client"),
    [
        (ModuleTagger(Recurrent()), NLUClient()),
        (ModuleTagger(Recurrent(), sgd_rate=0.05), NLUClient(optimizer="adamw")),
        (ModuleTagger(noting(Bag())), NLUClient(privacy=PRIVATE)),
    ],
    ids=["sgd", "adamw", "private"],
)
def test_a_module_that_knows_no_stack_trains_one_by_one_and_says_so_once(model, client, caplog):
    run = simulation(model=model, client=client).run(progress=False)
    there = simulation(model=model, client=client, engine="local").run(progress=False)
    assert run.summary["model_sha256"] == there.summary["model_sha256"]
    assert run.start["chunks"]["one_by_one"]
    assert caplog.text.count("one device by one") == 1


class Neighbourly(BiLSTMTagger):
    """Mixes devices: in a stack it computes something else."""

    def losses(self, parameters, batch):
        return super().losses({n: p - p.mean(0) for n, p in parameters.items()}, batch)


def test_a_model_that_computes_something_else_in_a_stack_trains_one_by_one():
    model = Neighbourly.sized_for(PEOPLE, embedding=4, hidden=6)
    run = simulation(model=model).run(progress=False)
    assert "not close" in run.start["chunks"]["one_by_one"]


def test_what_the_engine_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="a ClientApp trains one device at a time"):
        simulation(client=ClientApp()).run()
    with pytest.raises(ConfigError, match="engine is 'btached'; choose one of local, batched"):
        simulation(engine="btached")
    with pytest.raises(ConfigError, match="device is 'cuda', but engine 'local'"):
        simulation(engine="local", device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        simulation(device="cuda").run()
