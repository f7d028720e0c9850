"""Claims about DP-SGD as a local procedure, against ordinary training and against its formula."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedsim import ConfigError
from fedsim.models import BiLSTMTagger
from fedsim.privacy import Automatic, NoiseDecay, PerLayer
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.release import AdaptiveClipping
from fedsim.rng import stream
from fedsim.training.dpsgd import DPSGD
from fedsim.training.kernel import clipped_gradient
from fedsim.training.late_noise import settle
from fedsim.training.procedures import SGD

MODEL = BiLSTMTagger(rows=9, intents=3, slot_labels=4, embedding=4, hidden=2)
QUIET = DPSGD(
    losses=MODEL.losses, learning_rate=0.3, clip_norm=0.5, noise_multiplier=0.0, physical_size=8
)
NOISY = replace(QUIET, noise_multiplier=2.0)
LAYERS = PerLayer(scales={"embedding": 0.6, "lstm": 0.5, "intent": 0.1, "slot": 0.2})
VARIANTS = {
    "automatic": {"clipping": Automatic()},
    "per layer": {"clipping": LAYERS},
    "micro-batches": {"clipping": MicroBatches(size=2)},
    "as published": {
        "clipping": MicroBatches(size=2, within=LAYERS),
        "decay": NoiseDecay(factor=0.5, every=1),
    },
    "adaptive": {"adaptive": AdaptiveClipping()},
}
EVERY_VARIANT = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)


def received(seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in MODEL.named_parameters()}
    return {n: 0.5 * torch.randn(s, generator=draw, dtype=dtype) for n, s in shapes.items()}


def batch_of(examples=5, seed=0, size=4.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(100 + seed)
    weight = torch.ones(examples, dtype=dtype)
    weight[1:2] = 0.0
    return {
        "token_ids": torch.randint(1, 9, (examples, 3, 1), generator=draw),
        "lengths": torch.full((examples,), 3),
        "intents": torch.randint(0, 3, (examples,), generator=draw),
        "slots": torch.randint(0, 4, (examples, 3), generator=draw),
        "weight": weight,
        "record": torch.randperm(50, generator=draw)[:examples],
        "size": torch.tensor(size, dtype=dtype),
    }


def trained(procedure, parameters, batches, seed=0):
    state = procedure.start(parameters, stream(seed, "noise"))
    for batch in batches:
        state = procedure.step(state, batch)
    return procedure.finish(state), state


def assert_close(one, other, tolerance=1e-10):
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("physical_size", [1, 2, 8])
def test_without_noise_and_clipping_it_is_ordinary_training(mu, physical_size):
    batches = [batch_of(seed=k) for k in range(4)]
    private = replace(QUIET, clip_norm=torch.inf, physical_size=physical_size, proximal_mu=mu)
    ordinary = SGD(losses=MODEL.losses, learning_rate=0.3, proximal_mu=mu)
    got, state = trained(private, received(), batches)
    wanted, other = trained(ordinary, received(), batches)
    assert_close(got, wanted)
    torch.testing.assert_close(state["loss"], other["loss"].detach())
    assert state["seen"] == other["seen"] == 16


@pytest.mark.parametrize("physical_size", [1, 2, 3, 8])
def test_a_logical_step_has_the_same_noise_however_it_is_split(physical_size):
    batches = [batch_of(), batch_of(seed=1)]
    whole, _ = trained(NOISY, received(), batches)
    split, _ = trained(replace(NOISY, physical_size=physical_size), received(), batches)
    assert_close(split, whole)


def test_the_proximal_term_is_not_clipped():
    """With every gradient clipped to almost nothing the pull towards the anchor is still whole."""
    tight = replace(QUIET, clip_norm=1e-12, proximal_mu=0.5)
    state = tight.start(received())
    for p in state["parameters"].values():
        p += 1.0
    got = tight.finish(tight.step(state, batch_of()))
    assert_close(got, {name: p + 1.0 - 0.3 * 0.5 for name, p in received().items()}, 1e-9)


def noises(steps, batch):
    """Noise of every step: what changed, divided by the rate and the noise's own scale."""
    state = NOISY.start(received(), stream(3, "noise"))
    found = []
    for _ in range(steps):
        before = {name: p.clone() for name, p in state["parameters"].items()}
        total = clipped_gradient(MODEL.losses, before, batch, 0.5).gradients
        state = NOISY.step(state, batch)
        scale = -0.3 / float(batch["size"])
        noise = {n: (p - before[n]) / scale - total[n] for n, p in state["parameters"].items()}
        found.append(torch.cat([x.flatten() for x in noise.values()]) / (2.0 * 0.5))
    return torch.stack(found)


@pytest.mark.parametrize("examples", [5, 0])
def test_the_noise_is_normal_with_the_stated_deviation_and_new_at_every_step(examples):
    """Kolmogorov-Smirnov, and correlations within five deviations of 0: error rate 1e-5."""
    found = noises(60, batch_of(examples))
    assert kstest(found.flatten().numpy(), "norm").pvalue > 1e-6
    steps = np.corrcoef(found.numpy())[np.triu_indices(60, 1)]
    coordinates = np.corrcoef(found.numpy().T)[np.triu_indices(found.shape[1], 1)]
    assert abs(steps.mean()) * np.sqrt(len(steps) * found.shape[1]) < 5
    assert abs(coordinates.mean()) * np.sqrt(len(coordinates) * 60) < 5


def test_no_number_of_noise_comes_twice():
    """Over steps, parameters, stacked devices, participations and what comes late."""
    empty = batch_of(0, size=4.0)
    stack = {n: torch.zeros(3, *p.shape, dtype=torch.float64) for n, p in received().items()}
    batch = {n: v.expand(3, *v.shape) for n, v in empty.items()}
    drawn = []
    for participation in range(4):
        state = NOISY.start(stack, [stream(0, "noise", participation, d) for d in range(3)])
        for _ in range(5):
            before = {n: p.clone() for n, p in state["parameters"].items()}
            state = NOISY.step(state, batch)
            drawn += [(p - before[n]).flatten() for n, p in state["parameters"].items()]
        state["late"] = {"embedding": torch.ones(3, 9, dtype=torch.float64)}
        before = state["parameters"]["embedding"].clone()
        settle(state, "embedding", torch.arange(27))
        drawn.append(-0.3 / 4.0 * (state["parameters"]["embedding"] - before).flatten())
    # In units of a deviation; rounding of the parameters is far below, and so are chance meetings.
    values = torch.cat(drawn).sort().values
    assert float(values.diff().min()) > 1e-14


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_late_noise_of_a_row_is_there_when_it_is_read_and_when_it_is_sent(mu):
    """A batch of weight 0 reads some rows: what it meets, and what comes out, has the variance of
    noise that came at every step, within five deviations (4,000 numbers of each row and step)."""
    devices, width, reads = 2000, 4, [[0, 1, 2], [0], [2, 4], [1, 2], [0]]
    met = []

    def losses(parameters, batch):
        met.append(parameters["embedding"].clone())
        return MODEL.losses(parameters, batch)

    falling = replace(
        NOISY, losses=losses, proximal_mu=mu, decay=NoiseDecay(factor=0.8), physical_size=1
    )
    stack = {n: p.expand(devices, *p.shape) for n, p in received().items()}
    state = falling.start(stack, stream(1, "noise"))
    state["late"] = {"embedding": torch.zeros(devices, 9, dtype=torch.float64)}
    variance, kept = [0.0], (1 - 0.3 * mu) ** 2
    for step, rows in enumerate(reads):
        batch = {n: v.expand(devices, *v.shape) for n, v in batch_of(1).items()}
        batch["token_ids"] = torch.tensor(rows)[torch.arange(3) % len(rows)].expand(devices, 1, 3)
        batch["token_ids"] = batch["token_ids"].unsqueeze(-1)
        batch["weight"] = torch.zeros(devices, 1, dtype=torch.float64)
        batch["reads"] = (9 * torch.arange(devices)[:, None] + torch.tensor(rows)).flatten()
        state = falling.step(state, batch)
        moved = met[-1][:, rows] - received()["embedding"][rows]
        tolerance = 5 * (2 / (devices * width)) ** 0.5
        for row in moved.unbind(1):
            assert float(row.square().mean()) == pytest.approx(variance[-1], rel=tolerance)
        scale = 0.3 * 2.0 * 0.5 * falling.decay.at(step) / 4.0
        variance.append(kept * variance[-1] + scale**2)
    settle(state, "embedding", torch.arange(9 * devices))
    moved = state["parameters"]["embedding"] - received()["embedding"]
    assert moved.square().mean((0, 2)).tolist() == pytest.approx([variance[-1]] * 9, rel=tolerance)
    flat = moved.transpose(0, 1).flatten(1)
    apart = torch.corrcoef(flat)[*torch.triu_indices(9, 9, 1)]
    assert float(apart.abs().max()) < 5 / flat.shape[1] ** 0.5
    assert not state["late"]["embedding"].any()


def test_numbers_of_two_types_are_summed_and_noised_in_their_own():
    mixed = received() | {"intent_bias": received()["intent_bias"].float()}
    state = NOISY.start(mixed, stream(0, "noise"))
    noise, _ = NOISY._noise(state, NOISY._split(state, torch.tensor(4.0)), torch.tensor(4.0))
    assert list(noise) == list(mixed)
    assert {n: (p.shape, p.dtype) for n, p in noise.items()} == {
        n: (p.shape, p.dtype) for n, p in mixed.items()
    }
    assert all((p != 0).all() and p.isfinite().all() for p in noise.values())


def test_a_batch_of_nobody_is_noise_alone():
    nobody = batch_of(0, size=4.0)
    got, state = trained(NOISY, received(), [nobody])
    assert all((got[n] != p).all() for n, p in received().items())
    assert state["seen"] == 0 and state["loss"] == 0


def test_every_row_of_the_table_is_noised():
    moved, _ = trained(NOISY, received(), [batch_of()])
    assert (moved["embedding"] != received()["embedding"]).all()
    assert not NOISY.leaves_unused_rows


def test_what_is_left_over_goes_along_with_the_last_physical_batch():
    seen = []

    def losses(parameters, batch):
        seen.append(batch["weight"].shape[-1])
        return MODEL.losses(parameters, batch)

    for examples in (0, 3, 7, 11):
        trained(replace(QUIET, losses=losses, physical_size=4), received(), [batch_of(examples)])
    assert seen == [3, 7, 4, 7]


def test_devices_and_rounds_draw_noise_of_their_own():
    one, _ = trained(NOISY, received(), [batch_of()], seed=0)
    same, _ = trained(NOISY, received(), [batch_of()], seed=0)
    other, _ = trained(NOISY, received(), [batch_of()], seed=1)
    assert_close(one, same, 0.0)
    assert not torch.allclose(one["embedding"], other["embedding"])


def test_a_stack_of_devices_takes_the_steps_of_the_devices_one_by_one():
    parameters, batches = [received(d) for d in range(3)], [batch_of(seed=d) for d in range(3)]
    stack = {n: torch.stack([p[n] for p in parameters]) for n in parameters[0]}
    batch = {n: torch.stack([b[n] for b in batches]) for n in batches[0]}
    batch["size"] = torch.tensor([4.0, 2.0, 7.0], dtype=torch.float64)
    procedure = replace(QUIET, physical_size=2, proximal_mu=0.4)
    got, state = trained(procedure, stack, [batch, batch])
    for d in range(3):
        own = batches[d] | {"size": batch["size"][d]}
        wanted, alone = trained(procedure, parameters[d], [own, own])
        assert_close({n: p[d] for n, p in got.items()}, wanted)
        torch.testing.assert_close(state["loss"][d], alone["loss"])


@EVERY_VARIANT
def test_under_every_variant_a_stack_is_its_devices_and_a_stream_repeats_itself(settings):
    """One stream draws for a stack as for one device; without noise nothing else may differ."""
    quiet, noisy = replace(QUIET, **settings), replace(NOISY, **settings)
    parameters, batches = [received(d) for d in range(3)], [batch_of(seed=d) for d in range(3)]
    stack = {n: torch.stack([p[n] for p in parameters]) for n in parameters[0]}
    batch = {n: torch.stack([b[n] for b in batches]) for n in batches[0]}
    got, state = trained(quiet, stack, [batch, batch])
    for d in range(3):
        wanted, alone = trained(quiet, parameters[d], [batches[d]] * 2)
        assert_close({n: p[d] for n, p in got.items()}, wanted)
        torch.testing.assert_close(state["loss"][d], alone["loss"])
        assert state["seen"][d] == alone["seen"] == 8
    one, same, other = (trained(noisy, received(), batches, seed)[0] for seed in (0, 0, 1))
    assert_close(one, same, 0.0)
    assert not torch.allclose(one["embedding"], other["embedding"])


@EVERY_VARIANT
def test_under_every_variant_a_batch_of_nobody_is_noise_alone(settings):
    nobody = batch_of(0, size=4.0)
    got, state = trained(replace(NOISY, **settings), received(), [nobody, batch_of(), nobody])
    assert all((got[n] != p).all() and p.isfinite().all() for n, p in received().items())
    assert state["seen"] == 4
    still, _ = trained(replace(QUIET, **settings), received(), [nobody])
    assert_close(still, received())


@pytest.mark.parametrize("examples", [5, 0])
def test_falling_noise_has_the_stated_deviation_at_every_step(examples):
    """Steps without examples: the noise is what changed; within 20 % (error rate 1e-6)."""
    falling = replace(NOISY, decay=NoiseDecay(factor=0.5, every=2))
    quiet = falling.start(received(), stream(3, "noise"))
    found = []
    for _ in range(6):
        before = {n: p.clone() for n, p in quiet["parameters"].items()}
        batch = batch_of(examples)
        clean = clipped_gradient(MODEL.losses, before, batch, 0.5).gradients
        quiet = falling.step(quiet, batch)
        noise = [(p - before[n]) * 4.0 / -0.3 - clean[n] for n, p in quiet["parameters"].items()]
        found.append(float(torch.cat([x.flatten() for x in noise]).std()))
    assert found == pytest.approx([1.0, 1.0, 0.5, 0.5, 0.25, 0.25], rel=0.2)


def test_micro_batches_are_averaged_over_as_many_as_are_expected():
    """With one micro-batch a step and no clipping it is ordinary training on those who came."""
    one = replace(QUIET, clip_norm=1e9, clipping=MicroBatches(size=4))
    batch = batch_of(size=4.0)
    got, _ = trained(one, received(), [batch])
    wanted, _ = trained(SGD(losses=MODEL.losses, learning_rate=0.3), received(), [batch])
    assert_close(got, wanted)


def test_micro_batches_change_from_step_to_step():
    state = replace(QUIET, clipping=MicroBatches(size=2)).start(received(), stream(0, "noise"))
    keys = []
    for _ in range(3):
        keys.append(int(state["key"]))
        state = replace(QUIET, clipping=MicroBatches(size=2)).step(state, batch_of())
    assert len(set(keys)) == 3


@EVERY_VARIANT
def test_the_state_is_a_tree_of_tensors_and_the_received_is_left_alone(settings):
    parameters = received()
    before = {name: p.clone() for name, p in parameters.items()}
    procedure = replace(NOISY, proximal_mu=0.1, **settings)
    _, state = trained(procedure, parameters, [batch_of()])
    for value in state.values():
        for leaf in value.values() if isinstance(value, dict) else [value]:
            assert isinstance(leaf, torch.Tensor)
    assert_close(parameters, before, 0.0)


def test_an_example_that_is_not_finite_is_not_met():
    parameters = received()
    parameters["embedding"][8] = torch.nan
    batch = batch_of()
    batch["token_ids"].clamp_(max=7)
    batch["token_ids"][0, 0, 0] = 8
    got, state = trained(QUIET, parameters, [batch])
    assert state["seen"] == 3 and state["loss"].isfinite()
    assert all(p[:8].isfinite().all() for p in got.values())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"clip_norm": float("nan")}, "clip_norm is nan"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": 1.0, "clip_norm": torch.inf}, "infinite noise"),
        ({"noise_multiplier": torch.inf}, "infinite noise"),
        ({"physical_size": 0}, "physical_size is 0"),
        ({"clip_norm": torch.inf, "clipping": Automatic()}, "choose a finite clip_norm"),
        ({"clip_norm": torch.inf, "adaptive": AdaptiveClipping()}, "choose a finite clip_norm"),
    ],
)
def test_settings_without_meaning_are_refused(change, what):
    with pytest.raises(ConfigError, match=what):
        replace(QUIET, **change)


@pytest.mark.parametrize(
    "procedure",
    [
        NOISY,
        replace(QUIET, clipping=MicroBatches(size=2)),
        replace(NOISY, clipping=MicroBatches(size=2), secure_noise=True),
    ],
)
def test_what_draws_is_refused_without_a_stream(procedure):
    with pytest.raises(ConfigError, match="no stream"):
        procedure.start(received())
