"""Claims about what a run claims, before its first round."""

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from fedsim.population import Population
from fedsim.privacy import ExampleLevel
from fedsim.privacy.account import Account
from fedsim.privacy.example_level import LocalSteps
from fedsim.privacy.example_spent import account
from fedsim.privacy.release import DeviceLevel
from strategies import PrivateAggregation, Selective, UniformSelection


def kept(device_noise=None, example_noise=None):
    """The account of a run of three devices with so much noise on either level; None is no DP."""
    inner = FedAvg()
    if device_noise is not None:
        inner = PrivateAggregation(inner, DeviceLevel(noise_multiplier=device_noise, delta=1e-5))
    strategy = Selective(inner, UniformSelection(cohort=2))
    strategy.prepare([np.array([3, 4, 5])], [1])
    example = None
    if example_noise is not None:
        people = Population.load("home", devices=3)
        level = ExampleLevel(noise_multiplier=example_noise, delta=1e-5)
        example = account(level, LocalSteps(batch_size=16), people, people.devices)
    return Account.of(strategy, example)


@pytest.mark.parametrize(
    ("device", "example", "claims"),
    [
        (None, None, ()),
        (1.0, None, ("device",)),
        (0.0, None, ()),
        (None, 1.0, ("example",)),
        (None, 0.0, ()),
        (1.0, 0.0, ("device",)),
        (0.0, 1.0, ("example",)),
        (1.0, 1.0, ("device", "example")),
    ],
)
def test_a_unit_is_claimed_where_its_mechanism_adds_noise(device, example, claims):
    found = kept(device, example)
    assert found.claims == claims
    assert (found.device is not None, found.example is not None) == (
        device is not None,
        example is not None,
    )
