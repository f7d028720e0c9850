"""No sequence of rates and noise takes a device over its budget, and the budget is the claim."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.privacy import DeviceSum, Gaussian, NonPrivate, epsilon
from fedsim.privacy.filtered_ledger import FilteredLedger, announced_order
from fedsim.privacy.renyi import ORDERS

NOBODY = np.zeros(0, np.int64)
DELTA = 1e-5


def planned(rates, noise=1.0, **more) -> DeviceSum:
    event = NonPrivate() if noise is None else Gaussian(noise_multiplier=noise)
    return DeviceSum(event=event, rates=np.asarray(rates, float), **more)


def go_on(ledger: FilteredLedger, rates, noise=1.0, **more) -> np.ndarray:
    """Charge a round to those who can pay for it; the rates they had."""
    rates = np.asarray(rates, float)
    kept = np.where(ledger.affordable(planned(rates, noise, **more)), rates, 0.0)
    ledger.charge(planned(kept, noise, **more), NOBODY)
    return kept


def oracle(steps, order: float) -> tuple[float, float]:
    """Renyi divergence and epsilon at DELTA of (rate, noise) steps, by dp-accounting."""
    accountant = RdpAccountant([order])
    for rate, noise in steps:
        if rate > 0:
            accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    return float(accountant._rdp[0]), accountant.get_epsilon(DELTA)


STEPS = st.tuples(st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.7, 1.0]), st.sampled_from([0.6, 1, 3]))


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=40), st.sampled_from([4, 8, 16]))
def test_no_sequence_of_rates_and_noise_exceeds_the_budget_by_dp_accounting(steps, order):
    """And nobody is kept out who could pay: the next step would have gone beyond it."""
    ledger = FilteredLedger(1, DELTA, budget=5.0, order=order)
    limit = 5.0 - np.log1p(-1 / order) + (np.log(DELTA) + np.log(order)) / (order - 1)
    taken = []
    for rate, noise in steps:
        (kept,) = go_on(ledger, [rate], noise)
        if kept < rate:
            assert oracle([*taken, (rate, noise)], order)[0] > 0.99 * limit
        taken.append((kept, noise))
    spent, claimed = oracle(taken, order)
    assert claimed <= 5.0 * (1 + 1e-9)
    # Rates are rounded up to a grid of ratio 1.002, and divergences grow with their square.
    assert spent <= ledger.spent[0] * limit * (1 + 1e-6) <= spent * 1.01 + 1e-12


@pytest.mark.parametrize(("rate", "sigma"), [(0.02, 1.0), (0.1, 1.0), (1.0, 4.0)])
def test_where_rates_stay_it_admits_most_of_what_the_exact_account_would(rate, sigma):
    step = Gaussian(noise_multiplier=sigma, rate=rate)
    exact = 1
    while epsilon([step.times(exact)], DELTA) <= 4.0:
        exact = math.ceil(exact * 1.05)
    order = announced_order([(planned([rate], sigma), exact)], 4.0, DELTA)
    ledger, admitted = FilteredLedger(1, DELTA, 4.0, order), 0
    while go_on(ledger, [rate], sigma)[0]:
        admitted += 1
    assert 0.4 * exact <= admitted <= exact
    assert epsilon([step.times(admitted)], DELTA) <= 4.0


def test_who_cannot_pay_may_come_again_at_a_lower_rate_and_nobody_else_is_touched():
    ledger = FilteredLedger(3, DELTA, budget=4.0, order=8)
    rates = np.array([0.3, 0.01, 0.0])
    seen = [go_on(ledger, rates) for _ in range(40)]
    assert seen[0][0] == 0.3
    assert seen[-1].tolist() == [0.0, 0.01, 0.0]
    assert go_on(ledger, rates / 30)[0] == 0.01
    assert ledger.spent[2] == 0


def test_a_fixed_size_draw_is_charged_as_if_everybody_came():
    coins, fixed, full = (FilteredLedger(2, DELTA, 20.0, 4) for _ in range(3))
    go_on(coins, [0.1, 0.0], 2.0)
    go_on(fixed, [0.1, 0.0], 2.0, independent=False)
    go_on(full, [1.0, 0.0], 2.0)
    assert coins.spent[0] < fixed.spent[0] == full.spent[0]
    assert fixed.spent[1] == 0


def test_a_light_weight_costs_less():
    ledger = FilteredLedger(2, DELTA, 20.0, 4)
    go_on(ledger, [0.5, 0.5], 2.0, weights=np.array([1.0, 0.25]))
    assert 0 < ledger.spent[1] < ledger.spent[0] / 4


def test_the_claim_is_the_budget_whatever_was_spent_of_it():
    ledger = FilteredLedger(4, DELTA, budget=3.0, order=8)
    assert set(ledger.figures().values()) == {0.0, np.inf}
    go_on(ledger, [1e-4, 0.0, 0.0, 0.0])
    assert ledger.figures() == {
        "epsilon_max": 3.0,
        "epsilon_median": 3.0,
        "epsilon_participation_max": np.inf,
        "epsilon_server_max": np.inf,
    }
    assert ledger.bounds().tolist() == [3.0] * 4
    assert ledger.worst() == 0
    assert np.isinf(ledger.participation_epsilons(np.arange(2))).all()


def test_at_another_delta_the_same_divergence_is_another_epsilon():
    ledger = FilteredLedger(2, DELTA, budget=3.0, order=8)
    go_on(ledger, [0.1, 0.1])
    accountant = RdpAccountant([8.0])
    accountant._rdp = np.array([ledger._limit])
    for delta in (1e-3, 1e-5, 1e-9):
        theirs = accountant.get_epsilon(delta)
        assert ledger.epsilons(np.arange(2), delta) == pytest.approx([theirs] * 2, rel=1e-9)
        assert ledger.highest(np.array([1]), delta) == pytest.approx(theirs, rel=1e-9)
    assert ledger.highest(NOBODY, DELTA) == 0
    assert ledger.highest(np.array([1]), DELTA, "replace-one") == np.inf


def test_a_round_over_budget_is_refused_and_not_charged():
    ledger = FilteredLedger(2, DELTA, budget=3.0, order=8)
    with pytest.raises(ConfigError, match="would take 1 devices above their budgets"):
        ledger.charge(planned([0.001, 1.0], 0.7), NOBODY)
    assert ledger.spent.tolist() == [0, 0]
    assert not ledger.affordable(planned([0.1, 0.1], None)).any()
    with pytest.raises(ConfigError, match="rates of 3 devices, but the ledger has 2"):
        ledger.affordable(planned([0.1, 0.1, 0.1]))


def test_a_restored_one_remembers():
    one, other = (FilteredLedger(1, DELTA, 3.0, 8) for _ in range(2))
    while go_on(one, [0.05])[0]:
        pass
    assert other.affordable(planned([0.05])).all()
    other.load_state_dict(one.state_dict())
    assert not other.affordable(planned([0.05])).any()
    assert other.figures() == one.figures()


def test_charges_of_another_order_are_not_taken_for_its_own():
    one, other = FilteredLedger(1, DELTA, 3.0, 8), FilteredLedger(1, DELTA, 3.0, 5)
    go_on(one, [0.05])
    with pytest.raises(ConfigError, match="kept at order 8, and the ledger's is 5"):
        other.load_state_dict(one.state_dict())


def test_the_announced_order_leaves_the_most_rounds():
    """By trying all of them."""
    rates = np.array([0.02, 0.1, 0.4])
    chosen = announced_order([(planned(rates), 300)], 4.0, 1e-4)
    paid = {}
    for order in ORDERS.tolist():
        try:
            ledger = FilteredLedger(3, 1e-4, 4.0, order)
        except ConfigError:
            continue
        paid[order] = sum(go_on(ledger, rates).sum() for _ in range(300))
    assert paid[chosen] >= 0.98 * max(paid.values()) > 1.5 * min(paid.values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"order": 7.3}, "order is 7.3; choose one of 1.05"),
        ({"order": 1.5}, "order 1.5 leaves nothing of a budget of 3"),
        ({"budget": np.inf}, "budget is inf; choose a finite epsilon"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"devices": 0}, "devices is 0"),
    ],
)
def test_impossible_ones_are_refused(arguments, says):
    with pytest.raises(ConfigError, match=says):
        FilteredLedger(**({"devices": 1, "delta": DELTA, "budget": 3.0, "order": 8} | arguments))


def test_a_budget_of_which_no_order_leaves_anything_is_refused():
    with pytest.raises(ConfigError, match="of which no Renyi order leaves anything"):
        announced_order([(planned([0.1]), 1)], 0.001, 1e-9)
