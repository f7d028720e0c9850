"""A stack of devices is the devices trained alone: `LocalTrainer.train` is the oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from few import BILSTM, HELD, MODELS, PEOPLE, people

from fedsim.privacy import Automatic, ExampleLevel, NoiseDecay, PerLayer
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.release import AdaptiveClipping
from fedsim.training import (
    DPSGD,
    SGD,
    AdamW,
    LocalTrainer,
    private_procedures,
    procedures,
)
from fedsim.training.cohort import in_turn, train_together
from fedsim.training.mean import weighted_sum

EVERYONE = range(len(HELD))
NULL = np.arange(sum(HELD)) % 3 == 0
ALL_MODELS = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def parameters_of(model, dtype=torch.float32):
    return {name: p.detach().to(dtype, copy=True) for name, p in model.named_parameters()}


def trainer(population=PEOPLE, model=BILSTM, procedure=None, **options):
    made = procedure or procedures("sgd", model, model.sgd_rate / 2)
    options = {"batch_size": 4, "local_epochs": 1, "local_steps": None, "seed": 7} | options
    return LocalTrainer(population=population, model=model, procedure=made, **options)


def private_trainer(model=BILSTM, population=PEOPLE, **privacy):
    level = ExampleLevel(**{"noise_multiplier": 0.0, "clip_norm": 0.3, "delta": 1e-5} | privacy)
    made = private_procedures(level, model, model.private_rate / 2, 4)
    return trainer(population, model, made, privacy=level, local_epochs=2)


def both(own, *, dtype=torch.float32, devices=EVERYONE, period=0, **options):
    """Results as a stack, and alone, of the same devices."""
    sent = parameters_of(own.model, dtype)
    turn = in_turn(own, devices, period)
    stacked = train_together(own, sent, turn, period=period, round=3, **options)
    alone = [own.train(sent, device=d, period=period, round=3, **options) for d in turn]
    return stacked, alone


def assert_equal(stacked, alone, tolerance=1e-5):
    assert len(stacked) == len(alone)
    for one, other in zip(stacked, alone, strict=True):
        assert list(one.parameters) == list(other.parameters)
        assert one.examples == other.examples
        assert one.seen == pytest.approx(other.seen)
        assert one.loss == pytest.approx(other.loss, rel=1e-4, abs=1e-6)
        for name, p in one.parameters.items():
            torch.testing.assert_close(p, other.parameters[name], rtol=0, atol=tolerance)


def moved(results, sent):
    return [any(not torch.equal(r.parameters[n], sent[n]) for n in sent) for r in results]


class Decaying:
    """AdamW with weight decay, which the client does not offer; it trains the whole table."""

    def __init__(self, model):
        self.model = model

    def __call__(self, mu):
        return AdamW(losses=self.model.losses, learning_rate=0.01, weight_decay=0.3, proximal_mu=mu)


@ALL_MODELS
@pytest.mark.parametrize("mu", [0.0, 0.4])
@pytest.mark.parametrize(
    "options",
    [{}, {"local_epochs": 3, "batch_size": 5}, {"local_steps": 2}, {"batch_size": 100}],
    ids=["epoch", "epochs", "steps", "large batches"],
)
def test_sgd_over_ragged_devices(model, mu, options):
    own = trainer(model=model, **options)
    stacked, alone = both(own, proximal_mu=mu)
    assert_equal(stacked, alone)
    assert all(moved(stacked, parameters_of(model)))


@ALL_MODELS
@pytest.mark.parametrize("mu", [0.0, 0.4])
@pytest.mark.parametrize("decay", [False, True], ids=["adamw", "decay"])
def test_adamw_in_float64(model, mu, decay):
    """In single precision, where a gradient is nothing but rounding, AdamW's step is as long as its
    rate and goes anywhere; so the claim on its steps is made where rounding is far away."""
    made = Decaying(model) if decay else procedures("adamw", model, 0.01)
    stacked, alone = both(
        trainer(model=model, procedure=made, local_epochs=2), dtype=torch.float64, proximal_mu=mu
    )
    for result in (*stacked, *alone):
        # A bias of attention's keys moves no softmax: its gradient is rounding in any precision.
        if "qkv_bias_0" in result.parameters:
            result.parameters["qkv_bias_0"].view(3, -1)[1] = 0
    assert_equal(stacked, alone, 1e-7)


def test_adamw_in_float32_where_gradients_are_no_rounding():
    """A BiLSTM has such gradients everywhere, but for words that hardly matter to a maximum."""
    own = trainer(procedure=procedures("adamw", BILSTM, 0.01))
    stacked, alone = both(own)
    for one, other in zip(stacked, alone, strict=True):
        away = torch.cat([(one.parameters[n] - p).flatten() for n, p in other.parameters.items()])
        assert float((away.abs() < 1e-5).float().mean()) > 0.999


@ALL_MODELS
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_null_records_count_and_weigh_nothing(model, optimizer):
    starts = PEOPLE.starts
    mask = NULL.copy()
    mask[starts[2] : starts[3]] = True
    own = trainer(PEOPLE.nulled(mask), model, procedures(optimizer, model, 0.02))
    stacked, alone = both(own, dtype=torch.float64)
    assert_equal(stacked, alone, 1e-7)
    null = in_turn(own, EVERYONE, 0).index(2)
    assert moved(stacked, parameters_of(model, torch.float64)).index(False) == null
    assert stacked[null][1:] == (12, 0.0, 0.0)


@pytest.mark.parametrize("keep", ["current", "window:2", "reservoir:3", "all"])
def test_devices_train_on_what_they_keep(keep):
    cut = people(periods=3, keep=keep)
    for period in range(3):
        stacked, alone = both(trainer(cut), period=period)
        assert_equal(stacked, alone)
        assert [r.examples for r in stacked] == sorted(cut.activity(period), reverse=True)


def test_who_holds_nothing_returns_what_was_received():
    cut = people(periods=3)
    nobody = [d for d in EVERYONE if cut.activity(2)[d] == 0]
    assert nobody and len(nobody) < len(HELD)
    sent = parameters_of(BILSTM)
    for devices in (EVERYONE, nobody):
        own = trainer(cut, local_steps=2)
        stacked, alone = both(own, period=2, devices=devices)
        assert_equal(stacked, alone)
        assert sum(moved(stacked, sent)) == len(devices) - len(nobody)


def test_what_was_received_is_never_modified_and_no_two_replies_share_memory():
    sent, before = parameters_of(BILSTM), parameters_of(BILSTM)
    got = train_together(trainer(), sent, [4, 2, 0], period=0, round=1)
    for name, p in before.items():
        assert torch.equal(sent[name], p)
        got[0].parameters[name].fill_(9.0)
        assert not (got[1].parameters[name] == 9.0).any()


@ALL_MODELS
@pytest.mark.parametrize(
    "privacy",
    [
        {},
        {"clip_norm": 100.0},
        {"clipping": Automatic()},
        {"clipping": MicroBatches(size=2)},
        {"adaptive": AdaptiveClipping()},
        {"clipping": MicroBatches(size=3), "adaptive": AdaptiveClipping()},
        {"decay": NoiseDecay(factor=0.5)},
    ],
    ids=["clipped", "unclipped", "automatic", "micro", "adaptive", "adaptive micro", "decay"],
)
def test_private_steps_without_noise(model, privacy):
    stacked, alone = both(private_trainer(model, **privacy))
    assert_equal(stacked, alone)


def test_thresholds_per_layer():
    layers = PerLayer.by_size(parameters_of(BILSTM))
    stacked, alone = both(private_trainer(clipping=layers))
    assert_equal(stacked, alone)


@pytest.mark.parametrize("mu", [0.0, 0.4])
def test_private_steps_with_null_records_and_with_nothing_held(mu):
    cut = people(periods=3)
    stacked, alone = both(private_trainer(population=cut.nulled(NULL)), period=2, proximal_mu=mu)
    assert_equal(stacked, alone)
    assert min(cut.activity(2)) == 0


def noises(own, devices, *, round=3, **options):
    """What the noise alone moved, (devices, parameters)."""
    sent = parameters_of(own.model)
    got = train_together(own, sent, devices, period=2, round=round, **options)
    return [torch.cat([(r.parameters[n] - p).flatten() for n, p in sent.items()]) for r in got]


CUT = people(periods=3)
IDLE = [d for d in EVERYONE if CUT.activity(2)[d] == 0]
NOISY = private_trainer(population=CUT, noise_multiplier=1.0)


def test_noise_of_each_device_has_the_stated_size_and_is_its_own():
    """Devices that hold nothing send noise alone: two steps of rate x sigma x C / batch size."""
    together = noises(NOISY, IDLE)
    expected = 0.5 * 1.0 * 0.3 / 4 * 2**0.5
    for moved_by in together:
        # Five standard errors of a standard deviation: wrong less than once in a million.
        assert abs(float(moved_by.std()) / expected - 1) < 5 / (2 * len(moved_by)) ** 0.5
    correlation = float(torch.corrcoef(torch.stack(together[:2]))[0, 1])
    assert abs(correlation) < 5 / len(together[0]) ** 0.5


@pytest.mark.parametrize(
    "adaptive",
    [None, AdaptiveClipping(), AdaptiveClipping(bit_noise=3.0)],
    ids=["fixed", "adaptive", "bit noise"],
)
@pytest.mark.parametrize("steps", [1, 3, None], ids=["one step", "three steps", "epochs"])
def test_rows_of_the_table_have_as_much_noise_as_all_other_parameters(adaptive, steps):
    """Of devices whose records are null: their words are read, and only noise moves anything."""
    null = PEOPLE.nulled(np.ones(sum(HELD), bool))
    own = private_trainer(population=null, noise_multiplier=1.0, adaptive=adaptive)
    own, sent = replace(own, local_steps=steps), parameters_of(BILSTM)
    turn, away = in_turn(own, EVERYONE, 0), {"read": [], "not read": []}
    for round in range(1, 11):
        for device, reply in zip(
            turn, train_together(own, sent, turn, period=0, round=round), strict=True
        ):
            moved = {name: p - sent[name] for name, p in reply.parameters.items()}
            table = moved.pop("embedding")
            others = torch.cat([p.flatten() for p in moved.values()])
            unread = torch.zeros(len(table), dtype=torch.bool)
            unread[unread_rows(own, device)] = True
            for name, rows in (("read", table[~unread]), ("not read", table[unread])):
                ratio = rows.square().mean() / others.square().mean()
                away[name].append((float(ratio) - 1) / (2 / rows.numel() + 2 / len(others)) ** 0.5)
    for each in away.values():
        assert abs(np.mean(each)) < 5 / len(each) ** 0.5


def test_noise_is_a_function_of_round_and_stack():
    one, again = noises(NOISY, IDLE), noises(NOISY, IDLE)
    assert torch.equal(torch.stack(one), torch.stack(again))
    assert not torch.equal(one[0], noises(NOISY, IDLE, round=4)[0])
    assert not torch.equal(noises(NOISY, IDLE[:1])[0], noises(NOISY, IDLE[1:])[0])


def unread_rows(own, device):
    """Rows of the table that no word of the device reads."""
    words = own.population.held(device, 0, own.seed).token_ids
    return np.setdiff1d(np.arange(len(BILSTM.embedding)), words)


@pytest.mark.parametrize("mu", [0.0, 0.4])
@pytest.mark.parametrize(
    "privacy", [{}, {"decay": NoiseDecay(factor=0.5)}], ids=["constant", "decaying"]
)
def test_rows_that_nobody_reads_have_the_noise_of_all_steps(mu, privacy):
    """As many draws as there are numbers: a deviation within five standard errors."""
    own = private_trainer(noise_multiplier=2.0, **privacy)
    sent = parameters_of(BILSTM)
    procedure = own.procedure(mu)
    turn = in_turn(own, EVERYONE, 0)
    scaled = []
    for round in range(1, 9):
        got = train_together(own, sent, turn, period=0, round=round, proximal_mu=mu)
        for device, result in zip(turn, got, strict=True):
            rate = BILSTM.private_rate / 2
            variance = 0.0
            for step in range(own.steps(HELD[device])):
                noise = rate * 2.0 * procedure.decay.at(step) * 0.3 / min(4, HELD[device])
                variance = (1 - rate * mu) ** 2 * variance + noise**2
            moved_by = result.parameters["embedding"] - sent["embedding"]
            scaled.append(moved_by[unread_rows(own, device)].flatten() / variance**0.5)
    together = torch.cat(scaled)
    assert abs(float(together.square().mean()) - 1) < 5 * (2 / len(together)) ** 0.5
    assert abs(float(together.mean())) < 5 / len(together) ** 0.5
    assert all((each != 0).all() for each in scaled)


def test_a_tiny_last_noise_is_a_number_before_and_after_a_mean():
    """Deviations of 1e-24, whose squares are 0 in float32."""
    own = private_trainer(noise_multiplier=1.0, decay=NoiseDecay(factor=0.1))
    own = replace(own, local_steps=25)
    for averaged in (False, True):
        replies = train_together(own, parameters_of(BILSTM), [4, 2], period=0, round=1)
        if averaged:
            weighted_sum([reply.trained for reply in replies], [0.5, 0.5])
        for reply in replies:
            assert all(torch.isfinite(p).all() for p in reply.parameters.values())


def test_devices_and_rounds_have_late_noise_of_their_own():
    own, sent = private_trainer(noise_multiplier=1.0), parameters_of(BILSTM)
    row = np.intersect1d(unread_rows(own, 4), unread_rows(own, 2))[0]
    drawn = [
        float(result.parameters["embedding"][row, 0])
        for round in (1, 2)
        for result in train_together(own, sent, [4, 2], period=0, round=round)
    ]
    assert len(set(drawn)) == 4


class OwnSteps(DPSGD):
    """A private procedure with another step."""

    def step(self, state, batch):
        noise, _ = self._noise(state, self._split(state, batch["size"]), batch["size"])
        for name, p in state["parameters"].items():
            p.sub_(noise[name])
        return state


def test_a_private_procedure_with_steps_of_its_own_reaches_every_row():
    def made(mu):
        return OwnSteps(
            losses=BILSTM.losses,
            learning_rate=0.1,
            clip_norm=1.0,
            noise_multiplier=1.0,
            physical_size=4,
        )

    sent = parameters_of(BILSTM)
    (got,) = train_together(trainer(procedure=made), sent, [1], period=0, round=1)
    assert (got.parameters["embedding"] != sent["embedding"]).all()


def test_rounding_in_half_precision_does_not_tell_which_words_a_device_has():
    """A step's noise is below the rounding of every number here, and is lost in all rows alike."""
    own = private_trainer(noise_multiplier=1.0)
    slow = own.procedure
    own = replace(own, procedure=lambda mu: replace(slow(mu), learning_rate=0.004), local_steps=100)
    sent = parameters_of(BILSTM, torch.bfloat16)
    sent["embedding"].fill_(1.0)
    (got,) = train_together(own, sent, [4], period=0, round=1)
    assert (got.parameters["embedding"] == 1.0)[unread_rows(own, 4)].all()


def test_secure_noise_reaches_every_row():
    own, sent = private_trainer(noise_multiplier=1.0, secure_noise=True), parameters_of(BILSTM)
    (got,) = train_together(own, sent, [1], period=0, round=1)
    assert (got.parameters["embedding"] != sent["embedding"]).all()


def test_devices_with_most_steps_come_first():
    assert in_turn(trainer(), EVERYONE, 0) == [4, 2, 0, 5, 1, 3]
    assert in_turn(trainer(local_steps=1), [3, 1, 4], 0) == [4, 1, 3]


def test_one_device_that_diverges_leaves_the_others_as_they_are():
    def exploding(mu):
        return SGD(losses=losses, learning_rate=0.5)

    def losses(parameters, batch):
        too_much = torch.where(batch["size"] == 1, torch.inf, 1.0)
        return BILSTM.losses(parameters, batch) * too_much.unsqueeze(-1)

    sent = parameters_of(BILSTM)
    got = train_together(trainer(procedure=exploding), sent, [4, 2, 1], period=0, round=3)
    wanted = train_together(trainer(), sent, [4, 2], period=0, round=3)
    assert not torch.isfinite(got[2].parameters["intent_bias"]).all()
    # Device 4's last batch holds one example: it diverges too, device 2 does not.
    assert_equal(got[1:2], wanted[1:2])
