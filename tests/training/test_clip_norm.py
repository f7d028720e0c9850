"""Claims about the adaptive clip norm: where it goes, and that a step costs what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from fedsim.errors import ConfigError
from fedsim.models.joint import linear
from fedsim.models.tape import Blocks
from fedsim.privacy import PerLayer
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.release import AdaptiveClipping
from fedsim.rng import stream
from fedsim.training.clip_norm import clip_bits, split_noise
from fedsim.training.dpsgd import DPSGD
from fedsim.training.kernel import clipped_gradient

EXAMPLES = 200


def losses(parameters, batch):
    """Linear in the weight: an example's gradient is its input, whatever was learned."""
    rows = Blocks(batch["x"].shape[-2])
    return linear(batch["x"], parameters["w"], parameters["b"], rows).squeeze(-1)


def lengths_batch():
    """Gradients (x, 1), a hundred times longer in x: their norms are 100 to 500."""
    x = torch.linspace(100, 500, EXAMPLES, dtype=torch.float64).unsqueeze(-1)
    return {
        "x": x,
        "weight": torch.ones(EXAMPLES, dtype=torch.float64),
        "record": torch.arange(EXAMPLES),
        "size": torch.tensor(float(EXAMPLES), dtype=torch.float64),
    }


def received():
    return {
        "w": torch.zeros(1, 1, dtype=torch.float64),
        "b": torch.zeros(1, dtype=torch.float64),
    }


def adaptive(first=1.0, sigma=0.0, **settings):
    return DPSGD(
        losses=losses,
        learning_rate=0.1,
        clip_norm=first,
        noise_multiplier=sigma,
        physical_size=64,
        adaptive=AdaptiveClipping(rate=0.3, **settings),
    )


def norms_of(procedure, batch, steps, seed=0):
    state, found = procedure.start(received(), stream(seed, "noise")), []
    for _ in range(steps):
        state = procedure.step(state, batch)
        found.append(float(state["clip_norm"]))
    return found


@pytest.mark.parametrize("first", [1.0, 1e5], ids=["from below", "from above"])
@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_the_norm_goes_to_the_wanted_quantile_from_both_sides(first, target, sigma):
    """The bits' noise, 10 on 200, moves the norm by about 5 % of the norms' range."""
    found = norms_of(adaptive(first, sigma, target=target), lengths_batch(), 250)
    assert sum(found[-50:]) / 50 == pytest.approx(100 + 400 * target, rel=0.08)


def test_too_many_clipped_raise_it_and_too_many_unclipped_lower_it():
    assert norms_of(adaptive(1.0), lengths_batch(), 1)[0] > 1.0
    assert norms_of(adaptive(1e5), lengths_batch(), 1)[0] < 1e5


def test_it_is_the_same_for_the_same_stream_and_only_then():
    one, same, other = (norms_of(adaptive(100.0, 1.0), lengths_batch(), 5, s) for s in (0, 0, 1))
    assert one == same != other


def test_secure_noise_is_that_of_the_bits_too_and_has_their_deviation():
    """Nobody comes and the noise is all there is. Kolmogorov-Smirnov: error rate 1e-6."""
    nobody = {n: v[:0] if v.dim() else v for n, v in lengths_batch().items()}
    secure = replace(adaptive(1.0, 1.0, bit_noise=2.0), secure_noise=True)
    logs = np.diff(np.log([1.0, *norms_of(secure, nobody, 400)]))
    # The fraction is 1/2, the target, but for the noise.
    assert kstest(-logs / 0.3 * float(nobody["size"]) / 2.0, "norm").pvalue > 1e-6
    assert norms_of(secure, nobody, 3) != norms_of(secure, nobody, 3)


def test_a_batch_of_nobody_leaves_noise_alone():
    nobody = {n: v[:0] if v.dim() else v for n, v in lengths_batch().items()}
    assert norms_of(adaptive(100.0, 0.0), nobody, 3) == pytest.approx([100.0] * 3)
    noisy = norms_of(adaptive(100.0, 1.0), nobody, 3)
    assert len({*noisy, 100.0}) == 4


def test_every_device_of_a_stack_has_a_norm_of_its_own():
    batch, procedure = lengths_batch(), adaptive(100.0)
    longer = batch | {"x": batch["x"] * 10}
    stack = {name: torch.stack([batch[name], longer[name]]) for name in batch}
    both = {name: torch.stack([p, p]) for name, p in received().items()}
    state = procedure.start(both)
    alone = [procedure.start(received()) for _ in range(2)]
    for _ in range(4):
        state = procedure.step(state, stack)
        alone = [procedure.step(s, b) for s, b in zip(alone, (batch, longer), strict=True)]
    wanted = torch.stack([s["clip_norm"] for s in alone])
    torch.testing.assert_close(state["clip_norm"], wanted)
    for name in both:
        wanted = torch.stack([s["parameters"][name] for s in alone])
        torch.testing.assert_close(state["parameters"][name], wanted)


def test_the_noise_of_the_sum_is_in_units_of_the_present_norm():
    """200 steps without examples at a norm of 50: deviation within 10 % (error rate 1e-5)."""
    nobody = {n: v[:0] if v.dim() else v for n, v in lengths_batch().items()}
    procedure = replace(adaptive(50.0, 2.0, bit_noise=1e6), learning_rate=EXAMPLES)
    draws = []
    for seed in range(1000):
        state = procedure.step(procedure.start(received(), stream(seed, "noise")), nobody)
        draws += [float(p) for p in state["parameters"].values()]
    assert torch.tensor(draws).std() == pytest.approx(2.0 * 50.0, rel=0.1)


@given(
    sigma=st.floats(0.1, 10),
    bound=st.floats(0.1, 10),
    size=st.floats(1, 1000),
    given_noise=st.none() | st.floats(60, 1000),
)
def test_sum_and_bits_together_cost_what_was_asked(sigma, bound, size, given_noise):
    """As one Gaussian: the longest term and its bit, each in units of its noise."""
    clipping = AdaptiveClipping(bit_noise=given_noise)
    noise = split_noise(clipping, sigma, bound, torch.tensor(size, dtype=torch.float64))
    mu = ((bound / noise.sum) ** 2 + (0.5 / noise.bits) ** 2) ** 0.5
    assert float(mu) == pytest.approx(bound / sigma, rel=1e-9)


@pytest.mark.parametrize("clipping", [PerLayer(scales={"": 2.0}), MicroBatches(size=4)])
def test_a_zeroed_record_moves_sum_and_bits_within_the_stated_cost(clipping):
    """The pair, in units of its noises, moves by at most sensitivity over sigma."""
    batch, sigma = lengths_batch(), 1.5
    expected = clipping.expected(batch["size"])
    noise = split_noise(AdaptiveClipping(), sigma, clipping.bound, expected)

    def released(weight):
        world = batch | {"weight": weight}
        (terms,) = clipping.terms(losses, world, torch.tensor(0), EXAMPLES)
        clipped = clipped_gradient(
            terms.losses, received(), terms.batch, 150.0, factors=clipping.factors
        )
        vector = torch.cat([g.flatten() for g in clipped.gradients.values()]) / 150.0
        bits = clip_bits(clipped.factors, terms.batch["weight"])
        return torch.cat([vector / noise.sum, bits.view(1) / noise.bits])

    here = released(batch["weight"])
    for b in (0, 20, 100, 199):
        weight = batch["weight"].clone()
        weight[b] = 0.0
        assert (here - released(weight)).norm() <= clipping.sensitivity / sigma * (1 + 1e-9)


def test_bits_that_alone_would_cost_more_are_refused():
    with pytest.raises(ConfigError, match=r"the clip bit's noise is 0\.4"):
        adaptive(1.0, 1.0, bit_noise=0.4)
