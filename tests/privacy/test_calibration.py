"""Noise for a target epsilon, and no less of it than that takes."""

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.privacy import (
    DeviceLedger,
    DeviceSum,
    Gaussian,
    NonPrivate,
    device_level_noise,
    epsilon,
    noise_multiplier_for,
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
