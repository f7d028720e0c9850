"""Which claim a bound may be held against, and what a claim about one record says about several."""

import math
from itertools import product
from typing import get_args

import numpy as np
import pytest
from scipy.special import ndtr

from fedsim.leakage.claims import (
    ClaimUnit,
    Coin,
    Comparison,
    Observer,
    claimed,
    comparison,
    group_claim,
)
from fedsim.privacy import DeviceLedger, DeviceSum, ExampleLedger, Gaussian
from fedsim.privacy.account import Account


@pytest.mark.parametrize(
    ("coin", "claim", "wanted"),
    [
        ("device", "device", Comparison(unit="device", adjacency="zero-out")),
        ("device", "example", None),
        ("example", "device", Comparison(unit="device", adjacency="replace-one")),
        ("example", "example", Comparison(unit="example", adjacency="zero-out")),
        ("copies on one device", "device", Comparison(unit="device", adjacency="replace-one")),
        (
            "copies on one device",
            "example",
            Comparison(unit="example", adjacency="zero-out", group=True),
        ),
    ],
)
def test_released_models_are_compared_as_the_table_says(coin, claim, wanted):
    assert comparison(coin, "models", claim) == wanted


def test_copies_spread_over_devices_have_a_group_bound_alone():
    for claim in get_args(ClaimUnit):
        assert comparison("copies on many devices", "models", claim).group


def test_one_devices_update_is_compared_with_that_devices_example_ledger_alone():
    admitted = [
        (coin, claim)
        for coin, claim in product(get_args(Coin), get_args(ClaimUnit))
        if comparison(coin, "update", claim) is not None
    ]
    assert admitted == [("example", "example")]
    assert comparison("example", "update", "example").devices == "attacked"


def test_zero_out_of_devices_bounds_whole_devices_alone():
    for coin, observer in product(get_args(Coin), get_args(Observer)):
        found = comparison(coin, observer, "device")
        if found is not None and found.adjacency == "zero-out":
            assert coin == "device"


@pytest.mark.parametrize(("epsilon", "delta", "copies"), [(0.5, 1e-9, 4), (2.0, 1e-6, 3)])
def test_a_group_claim_is_that_of_one_record_after_another(epsilon, delta, copies):
    """P <= e^eps Q + delta, `copies` times over: the deltas add up geometrically."""
    grown = 0.0
    for _ in range(copies):
        grown = math.exp(epsilon) * grown + delta
    assert group_claim(epsilon, delta, copies) == pytest.approx((copies * epsilon, grown))


def test_a_group_claim_holds_for_a_gaussian_mechanism():
    """Sensitivity 1 each, noise 4: three records at once are a shift of 3/4."""

    def gaussian_delta(epsilon, mu):
        return ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu)

    epsilon = 0.8
    grown_epsilon, grown_delta = group_claim(epsilon, gaussian_delta(epsilon, 0.25), 3)
    assert gaussian_delta(grown_epsilon, 0.75) <= grown_delta


@pytest.mark.parametrize(
    ("one", "copies", "wanted"),
    [
        ((0.7, 1e-9), 1, (0.7, 1e-9)),
        ((0.0, 1e-9), 5, (0.0, 5e-9)),
        ((3.0, 0.0), 400, (1200.0, 0.0)),
        ((math.inf, 1e-9), 2, (math.inf, 1.0)),
        ((400.0, 1e-9), 2, (math.inf, 1.0)),
        ((10.0, 1e-5), 3, (math.inf, 1.0)),
    ],
)
def test_a_group_claim_at_its_edges(one, copies, wanted):
    assert group_claim(*one, copies) == pytest.approx(wanted)


def account(*, device=True, example=True):
    """Device 0 comes rarely and trains with little noise, device 1 the other way round."""
    ours, theirs = DeviceLedger(2, 1e-5), ExampleLedger(2, 1e-5)
    for _ in range(10):
        event = Gaussian(noise_multiplier=1.0)
        ours.charge(DeviceSum(event=event, rates=np.array([0.01, 0.5])), np.array([1]))
    theirs.charge(0, [Gaussian(noise_multiplier=0.5, rate=0.5, steps=10)])
    theirs.charge(1, [Gaussian(noise_multiplier=2.0, rate=0.5, steps=10)])
    return Account(device=ours if device else None, example=theirs if example else None)


BOTH = np.array([0, 1])


def test_a_coin_on_an_example_is_held_against_replacing_what_a_device_holds():
    own = account(example=False)
    wanted = own.device.epsilons(BOTH, 1e-9, "replace-one")
    assert claimed(own, "example", BOTH, 1e-9) == pytest.approx(wanted.max())
    assert claimed(own, "example", np.array([0]), 1e-9) == pytest.approx(wanted[0])
    assert wanted.max() > own.device.epsilons(BOTH, 1e-9).max()


def test_a_coin_on_a_device_is_held_against_taking_the_device_out_and_never_against_examples():
    wanted = account().device.epsilons(BOTH, 1e-9).max()
    assert claimed(account(), "device", BOTH, 1e-9) == pytest.approx(wanted)
    assert claimed(account(device=False), "device", BOTH, 1e-9) == math.inf


def test_a_coin_on_an_example_is_held_against_the_example_ledger_directly():
    own = account(device=False)
    for some in (BOTH, np.array([0]), np.array([1])):
        wanted = own.example.epsilons(some, 1e-9).max()
        assert claimed(own, "example", some, 1e-9) == pytest.approx(wanted)


def test_with_both_the_smaller_claim_about_the_same_devices_counts():
    """Each one's largest over the devices comes first: no device-by-device mixture of the two."""
    for some in (BOTH, np.array([0]), np.array([1])):
        each = [
            claimed(account(device=d, example=not d), "example", some, 1e-9) for d in (True, False)
        ]
        assert claimed(account(), "example", some, 1e-9) == min(each)


def test_without_a_ledger_nothing_is_claimed():
    assert claimed(Account(), "example", BOTH, 1e-9) == math.inf
