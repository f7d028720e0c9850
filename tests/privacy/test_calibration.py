"""Noise for a target epsilon, and filters that stop in time."""

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.privacy import (
    DeviceLedger,
    DeviceSum,
    Gaussian,
    NonPrivate,
    RenyiFilter,
    device_level_noise,
    epsilon,
    noise_multiplier_for,
    renyi_bound,
)


@pytest.mark.parametrize("target", [0.3, 2.0, 40.0])
def test_the_target_is_met_and_only_just(target):
    def run(noise):
        return epsilon([Gaussian(noise_multiplier=noise, rate=0.1, steps=50)], 1e-5)

    found = noise_multiplier_for(target, run)
    assert run(found) <= target
    assert run(found * 0.998) > target


@pytest.mark.parametrize("independent", [True, False])
def test_the_worst_device_of_a_whole_run_meets_the_target(independent):
    """Two periods with other rates and weights; the ledger of the run then says the same."""
    first, second = np.array([0.01, 0.1, 0.3]), np.array([0.2, 0.1, 0.0])
    weights = np.array([1.0, 1.0, 0.3])
    periods = [(first, None, 20), (second, weights, 30)]
    sigma = device_level_noise(3.0, 1e-5, periods, independent=independent)
    ledger = DeviceLedger(3, 1e-5)
    for rates, weight, rounds in periods:
        each = DeviceSum(
            event=Gaussian(noise_multiplier=sigma),
            rates=rates,
            weights=weight,
            independent=independent,
        )
        for _ in range(rounds):
            ledger.charge(each, np.array([], int))
    assert 3.0 * 0.998 < ledger.figures()["epsilon_max"] <= 3.0 * (1 + 1e-9)


def test_a_target_that_no_noise_reaches_is_refused():
    with pytest.raises(ConfigError, match="no noise multiplier up to"):
        noise_multiplier_for(1.0, lambda noise: epsilon([NonPrivate()], 1e-5))
    with pytest.raises(ConfigError, match="target epsilon is 0"):
        noise_multiplier_for(0.0, lambda noise: 1.0)


def test_a_filter_stops_before_the_budget_whatever_the_noise_turns_out_to_be():
    filter = RenyiFilter(2, epsilon=5.0, delta=1e-5, order=5)
    spent = [[], []]
    alive = np.ones(2, bool)
    for round in range(200):
        event = Gaussian(noise_multiplier=1.0 + (round % 3))
        rates = np.array([0.01, 0.1])
        alive &= filter.admits(DeviceSum(event=event, rates=rates))
        filter.spend(DeviceSum(event=event, rates=np.where(alive, rates, 0.0)))
        for device in np.flatnonzero(alive):
            spent[device].append(event.sampled(rates[device]))
    assert alive.tolist() == [True, False]
    assert renyi_bound(spent[1], 1e-5) <= 5.0
    assert 10 < len(spent[1]) < 200
    assert epsilon(spent[1], 1e-5) > 2.5


def test_a_filter_refuses_a_round_over_budget():
    filter = RenyiFilter(1, epsilon=3.0, delta=1e-5, order=8)
    with pytest.raises(ConfigError, match="1 devices over their budget"):
        filter.spend(DeviceSum(event=Gaussian(noise_multiplier=0.1), rates=np.array([1.0])))
    assert filter.admits(
        DeviceSum(event=Gaussian(noise_multiplier=9.0), rates=np.array([0.1]))
    ).all()
    assert not filter.admits(DeviceSum(event=NonPrivate(), rates=np.array([0.1]))).any()


def test_a_restored_filter_remembers():
    one = RenyiFilter(1, epsilon=3.0, delta=1e-5, order=8)
    other = RenyiFilter(1, epsilon=3.0, delta=1e-5, order=8)
    planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=np.array([0.05]))
    while one.admits(planned).all():
        one.spend(planned)
    assert other.admits(planned).all()
    other.load_state_dict(one.state_dict())
    assert not other.admits(planned).any()


@pytest.mark.parametrize(("order", "says"), [(7.3, "choose one of"), (1.5, "choose a larger")])
def test_impossible_orders_are_refused(order, says):
    with pytest.raises(ConfigError, match=says):
        RenyiFilter(1, epsilon=1.0, delta=1e-5, order=order)
