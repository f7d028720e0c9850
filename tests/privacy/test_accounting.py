"""Epsilons against dp-accounting, prv-accountant, closed forms and the known reference values."""

import logging
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.privacy import (
    MICRO_BATCHES,
    Gaussian,
    NonPrivate,
    delta_at,
    epsilon,
    layer_wise,
    noise_beside_clip_bit,
    renyi_bound,
    rounded,
)
from fedsim.privacy.closed_form import gaussian_epsilon
from fedsim.privacy.loss import compose
from fedsim.privacy.renyi import LEAST_SAMPLED, ORDERS, divergences, to_epsilon

REFERENCE = [
    (0.005, 1, 100, 1e-4, 0.237),
    (0.02, 1, 100, 1e-4, 1.099),
    (0.05, 1, 100, 1e-4, 2.870),
    (0.2, 1, 100, 1e-4, 12.67),
    (0.5, 1, 100, 1e-4, 36.28),
    (0.01, 1, 1000, 1e-5, 1.829),
    (0.01, 0.5, 1000, 1e-5, 13.36),
    (0.05, 0.8, 200, 1e-5, 7.70),
    (0.001, 0.7, 5000, 1e-6, 1.38),
]
"""Rate, noise multiplier, steps, delta and the known epsilon."""

MIXED = [
    Gaussian(noise_multiplier=1.0, rate=0.05, steps=60),
    Gaussian(noise_multiplier=0.8, rate=0.01, steps=100),
    Gaussian(noise_multiplier=2.0, steps=3),
]


def run(rate, noise, steps=1):
    return Gaussian(noise_multiplier=noise, rate=rate, steps=steps)


def dp_accounting_pld(events, interval, replace_one=False):
    """Composed by dp-accounting, step kind by step kind; its grid only ever raises epsilon."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    relation = "REPLACE_ONE" if replace_one else "ADD_OR_REMOVE_ONE"
    composed = pld.identity(interval)
    for event in events:
        one = pld.from_gaussian_mechanism(
            event.noise,
            sampling_prob=event.rate,
            value_discretization_interval=interval,
            neighboring_relation=NeighboringRelation[relation],
        )
        composed = composed.compose(one.self_compose(event.steps))
    return composed


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "known"), REFERENCE)
def test_reference_values(rate, noise, steps, delta, known):
    found = epsilon([run(rate, noise, steps)], delta)
    assert 0.998 * known <= found <= 1.01 * known


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "known"), REFERENCE[1:8])
def test_agrees_with_dp_accounting(rate, noise, steps, delta, known):
    events = [run(rate, noise, steps)]
    theirs = dp_accounting_pld(events, 1e-3).get_epsilon_for_delta(delta)
    assert epsilon(events, delta) == pytest.approx(theirs, rel=2e-3)


def test_a_mixed_history_agrees_with_dp_accounting():
    theirs = dp_accounting_pld(MIXED, 1e-3)
    assert epsilon(MIXED, 1e-5) == pytest.approx(theirs.get_epsilon_for_delta(1e-5), rel=1e-3)
    assert delta_at(MIXED, 3.0) == pytest.approx(theirs.get_delta_for_epsilon(3.0), rel=5e-3)


def test_each_direction_agrees_with_dp_accounting():
    """The mixture against the plain Gaussian and the reverse, which differ by half here."""
    history = tuple((e.rate, e.noise, e.steps) for e in MIXED[:2])
    theirs = dp_accounting_pld(MIXED[:2], 1e-3)
    for direction, pmf in (("forward", theirs._pmf_remove), ("backward", theirs._pmf_add)):
        ours = compose(history, "zero-out", direction).epsilon(1e-5)
        assert ours == pytest.approx(pmf.get_epsilon_for_delta(1e-5), rel=2e-3)


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.05, 1.0, 200), (0.4, 0.7, 20)])
def test_replace_one_agrees_with_dp_accounting(rate, noise, steps):
    events = [run(rate, noise, steps)]
    theirs = dp_accounting_pld(events, 1e-3, replace_one=True).get_epsilon_for_delta(1e-4)
    assert epsilon(events, 1e-4, "replace-one") == pytest.approx(theirs, rel=2e-3)


def test_replacing_one_costs_more_than_zeroing_one_out():
    """The uniform policy on `massive`: 4.20 becomes 6.51."""
    events = [run(32 / 612, 1.0, 200)]
    assert epsilon(events, 1e-4) == pytest.approx(4.20, rel=2e-3)
    assert epsilon(events, 1e-4, "replace-one") == pytest.approx(6.51, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "known"), REFERENCE[1:8])
def test_lies_in_the_interval_of_prv_accountant(rate, noise, steps, delta, known):
    prv = pytest.importorskip("prv_accountant")
    accountant = prv.PRVAccountant(
        prvs=[prv.PoissonSubsampledGaussianMechanism(rate, noise)],
        max_self_compositions=[steps],
        eps_error=0.01,
        delta_error=delta / 1000,
    )
    low, _, high = accountant.compute_epsilon(delta, [steps])
    assert low <= epsilon([run(rate, noise, steps)], delta) <= 1.001 * high


def phi(z):
    return math.erfc(-z / math.sqrt(2)) / 2


@given(
    noises=st.lists(st.floats(0.3, 20), min_size=1, max_size=5),
    at=st.floats(0, 5),
)
def test_sums_without_coins_compose_to_one_gaussian(noises, at):
    mu = math.sqrt(sum(s**-2 for s in noises))
    known = phi(-at / mu + mu / 2) - math.exp(at) * phi(-at / mu - mu / 2)
    found = delta_at([run(1.0, s) for s in noises], at)
    assert found == pytest.approx(known, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("delta", [1e-4, 1e-9])
@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_the_transform_agrees_with_the_closed_form(steps, delta):
    known = epsilon([run(1.0, 3.0, steps)], delta)
    found = compose(((1.0, 3.0, steps),), "zero-out", "forward").epsilon(delta)
    assert known * (1 - 1e-6) <= found <= known * 1.001


def test_epsilon_and_delta_are_inverse():
    for delta in (1e-3, 1e-6, 1e-9):
        assert delta_at(MIXED, epsilon(MIXED, delta)) == pytest.approx(delta, rel=2e-3)


steps_and_more = st.tuples(
    st.floats(1e-3, 1), st.floats(0.5, 5), st.integers(1, 400), st.floats(1, 2)
)


@settings(max_examples=25, deadline=None)
@given(steps_and_more)
def test_more_rounds_a_higher_rate_or_less_noise_never_cost_less(case):
    """Up to the grid, whose error is 0.1 % at most."""
    rate, noise, steps, more = case
    base = epsilon([run(rate, noise, steps)], 1e-5) * 0.999
    assert epsilon([run(rate, noise, math.ceil(steps * more))], 1e-5) >= base
    assert epsilon([run(min(1.0, rate * more), noise, steps)], 1e-5) >= base
    assert epsilon([run(rate, noise / more, steps)], 1e-5) >= base


@settings(max_examples=25, deadline=None)
@given(steps_and_more)
def test_the_renyi_bound_lies_above(case):
    rate, noise, steps, _ = case
    events = [run(rate, noise, steps)]
    assert renyi_bound(events, 1e-5) >= epsilon(events, 1e-5) * 0.999


@pytest.mark.parametrize(("rate", "noise"), [(0.05, 1.0), (0.3, 0.5), (0.01, 0.2), (0.001, 4.0)])
def test_renyi_divergences_at_whole_orders_agree_with_dp_accounting(rate, noise):
    """Its fractional orders below 2 are up to 27 % too high, and are left out."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)
    whole = ORDERS[ORDERS % 1 == 0]
    theirs = RdpAccountant(whole.tolist())
    theirs.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    ours = divergences(rate, noise)[np.isin(ORDERS, whole)]
    assert ours == pytest.approx(theirs.rdp, rel=1e-6)


@pytest.mark.parametrize("order", [1.05, 1.5, 2.3])
def test_renyi_divergences_at_fractional_orders_are_the_integral(order):
    from scipy.integrate import quad

    rate, noise = 0.05, 1.0

    def moment(x):
        ratio = 1 - rate + rate * math.exp((2 * x - 1) / (2 * noise**2))
        return math.exp(-(x**2) / (2 * noise**2)) / math.sqrt(2 * math.pi) * ratio**order

    value, _ = quad(moment, -12, 16, epsabs=1e-14, epsrel=1e-13, limit=200)
    found = divergences(rate, noise)[np.flatnonzero(order == ORDERS)[0]]
    assert found == pytest.approx(math.log(value) / (order - 1), rel=1e-8)


@pytest.mark.parametrize("order", [1.05, 2.3, 8])
@pytest.mark.parametrize(("rate", "noise"), [(0.05, 1.0), (0.3, 0.6), (0.9, 2.0)])
def test_renyi_divergences_of_replacing_one_are_the_integral(rate, noise, order):
    from scipy.integrate import quad
    from scipy.stats import norm

    def moment(x):
        up, down = (
            (1 - rate) * norm.pdf(x, 0, noise) + rate * norm.pdf(x, mean, noise) for mean in (1, -1)
        )
        return down * (up / down) ** order

    # The mass lies between the two means and 2 x order - 1.
    ends = np.linspace(-10 * noise - 1, 2 * order + 10 * noise, 40)
    value = sum(quad(moment, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(ends))
    found = divergences(rate, noise, "replace-one")[np.flatnonzero(order == ORDERS)[0]]
    assert found == pytest.approx(math.log(value) / (order - 1), rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(steps_and_more)
def test_the_renyi_bound_of_replacing_one_lies_above(case):
    rate, noise, steps, _ = case
    bound = to_epsilon(steps * divergences(rate, noise, "replace-one"), 1e-9)
    assert bound >= epsilon([run(rate, noise, steps)], 1e-9, "replace-one") * 0.999


@pytest.mark.parametrize("rate", [1e-300, 1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("noise", [0.5, 1.0, 30.0])
def test_very_rare_steps_cost_very_little(rate, noise):
    """A thousand steps are met with probability 1000 x rate; a delta above that covers them."""
    assert epsilon([run(rate, noise, 1000)], max(2000 * rate, 1e-5)) <= 1e-4


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_hardly_any_noise_costs_a_finite_fortune(noise):
    sampled = epsilon([run(0.3, noise, 3)], 1e-5)
    assert 0.9 < sampled / epsilon([run(1.0, noise, 3)], 1e-5) <= 1.01
    assert sampled > 100


@pytest.mark.parametrize("rate", [0.5, 1.0])
@pytest.mark.parametrize("noise", [1e-8, 1e-170])
def test_next_to_no_noise_is_no_noise(rate, noise):
    events = [run(rate, noise, 2)]
    assert epsilon(events, 1e-5) == renyi_bound(events, 1e-5) == math.inf
    assert delta_at(events, 1.0) == 1.0


@pytest.mark.parametrize("relation", ["zero-out", "replace-one"])
def test_below_the_noise_at_which_the_coin_is_left_out_the_bound_still_lies_above(relation):
    noise = LEAST_SAMPLED / 10
    bound = to_epsilon(3 * divergences(0.3, noise, relation), 1e-5)
    assert bound >= epsilon([run(0.3, noise, 3)], 1e-5, relation)


def test_micro_batches_are_priced_at_half_the_noise():
    whole = Gaussian(noise_multiplier=1.0, sensitivity=MICRO_BATCHES).sampled(0.01).times(1000)
    assert epsilon([whole], 1e-5) == epsilon([run(0.01, 0.5, 1000)], 1e-5)
    assert epsilon([whole], 1e-5) == pytest.approx(13.4, rel=5e-3)


def test_decaying_noise_costs_what_its_own_steps_cost():
    """Neither the first nor the mean noise multiplier would do."""
    sigmas = np.geomspace(2, 0.7, 10).tolist()
    found = epsilon([run(0.05, s, 10) for s in sigmas], 1e-5)
    known = dp_accounting_pld([run(0.05, s, 10) for s in sigmas], 1e-3).get_epsilon_for_delta(1e-5)
    assert found == pytest.approx(known, rel=2e-3)
    assert found > 1.2 * epsilon([run(0.05, float(np.mean(sigmas)), 100)], 1e-5)


def test_wider_sensitivities():
    assert layer_wise([1.0, 1.0, 1.0, 1.0]) == 2.0
    loose = Gaussian(noise_multiplier=1.0, sensitivity=rounded(0.01) * MICRO_BATCHES)
    assert loose.noise == pytest.approx(1 / 2.02)
    assert epsilon([loose], 1e-5) > epsilon([run(1.0, 0.5)], 1e-5)


@given(st.floats(0.1, 10), st.floats(0.501, 50))
def test_clip_bit_and_update_together_cost_the_asked_noise(noise, factor):
    """Sensitivities 1 and 1/2 on two independent sums: their squares of 1 / noise add up."""
    bit = noise * factor
    update = noise_beside_clip_bit(noise, bit)
    assert update**-2 + (0.5 / bit) ** 2 == pytest.approx(noise**-2)


def test_a_loud_clip_bit_is_refused():
    with pytest.raises(ConfigError, match=r"choose more than 0\.5"):
        noise_beside_clip_bit(1.0, 0.5)


def test_nothing_costs_nothing_and_no_proof_costs_everything():
    assert epsilon([], 1e-5) == renyi_bound([], 1e-5) == delta_at([], 0.0) == 0
    assert epsilon([run(0.0, 1.0, 10)], 1e-5) == 0
    for events in ([run(0.1, 0.0)], [NonPrivate()], [run(0.1, 5.0), NonPrivate()]):
        assert epsilon(events, 1e-5) == renyi_bound(events, 1e-5) == math.inf
        assert delta_at(events, 10.0) == 1


def test_local_steps_cannot_share_a_coin_and_be_called_independent():
    """Ten steps at q_e = 0.1 behind a coin of 0.05 are not ten steps at 0.005."""
    local = Gaussian(noise_multiplier=1.0).sampled(0.1).times(10)
    with pytest.raises(ConfigError, match="charge the steps of every participation in full"):
        local.sampled(0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.inf},
        {"rate": 1.1},
        {"rate": -0.1},
        {"steps": 0},
        {"steps": 1.5},
        {"sensitivity": 0.0},
    ],
)
def test_impossible_events_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Gaussian(**{"noise_multiplier": 1.0, **wrong})


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5])
def test_impossible_deltas_are_refused(delta):
    with pytest.raises(ConfigError, match="delta is"):
        epsilon([run(0.1, 1.0)], delta)


@pytest.mark.parametrize("noise", [0.03, 0.01, 1e-4, 1e-6])
@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.9])
def test_hardly_any_noise_has_a_huge_epsilon_and_no_error(rate, noise):
    """Of a single step epsilon is known: log(1 + q (e^e0 - 1)), e0 the unsampled one at delta / q
    (Balle, Barthe and Gaboardi, NeurIPS 2018, https://arxiv.org/abs/1807.01647)."""
    known = gaussian_epsilon(1 / noise, 1e-5 / rate) + np.log(rate)
    found = epsilon([Gaussian(noise_multiplier=noise, rate=rate)], 1e-5)
    assert known * (1 - 1e-9) <= found <= 1.01 * known


@pytest.mark.parametrize("relation", ["zero-out", "replace-one"])
@pytest.mark.parametrize("noise", [0.06, 0.049, 0.02, 1e-4])
def test_a_bound_under_hardly_any_noise_is_one_and_takes_no_more_work(noise, relation):
    """By the integral the last of them would take 10^11 points."""
    spent = epsilon([Gaussian(noise_multiplier=noise, rate=0.3, steps=3)], 1e-5, relation)
    bound = to_epsilon(3 * divergences(0.3, noise, relation), 1e-5)
    assert spent <= bound < (1.6 if relation == "zero-out" else 4.3) * spent
