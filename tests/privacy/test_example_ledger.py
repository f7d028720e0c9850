"""Example-level accounts: realised participations in full, the worst device counts."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.privacy import (
    ExampleLedger,
    ExampleLevel,
    Gaussian,
    LocalSteps,
    NonPrivate,
    epsilon,
)
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.state import pack, unpack

PRIVATE = ExampleLevel(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5)
LOCAL = LocalSteps(batch_size=16)


def spent(examples, participations, private=PRIVATE, local=LOCAL):
    ledger = ExampleLedger(1, private.delta)
    for _ in range(participations):
        ledger.charge(0, private.participation(examples, local))
    return ledger.figures()["example_epsilon_max"]


@pytest.mark.parametrize(
    ("examples", "uniform", "activity"),
    [(2, 17.9, 4.4), (11, 17.9, 14.2), (30, 16.0, 23.3), (124, 8.2, 25.7)],
)
def test_light_devices_pay_by_rate_and_heavy_ones_by_participation(examples, uniform, activity):
    """Batch 16, one epoch, sigma 1, delta 1e-5: expected participations of 200 rounds, rounded."""
    by_activity = round(200 * 32 * examples / 10217)
    assert spent(examples, 10) == pytest.approx(uniform, rel=0.01)
    assert spent(examples, by_activity) == pytest.approx(activity, rel=0.01)


@pytest.mark.parametrize(("participations", "least"), [(5, 5.14), (10, 7.04)])
def test_the_product_shortcut_is_never_what_a_participation_costs(participations, least):
    """q_e 0.1, 10 steps, q_d 0.05, 100 rounds: the product of the rates would claim 0.865."""
    local = LocalSteps(batch_size=16, local_steps=10)
    found = spent(160, participations, local=local)
    assert least <= found <= least * 1.01
    shortcut = epsilon([Gaussian(noise_multiplier=1.0, rate=0.005, steps=1000)], 1e-5)
    assert shortcut == pytest.approx(0.865, rel=0.01)


def test_neither_participations_nor_ledgers_take_the_rate_of_the_devices_coin():
    with pytest.raises(TypeError):
        PRIVATE.participation(160, LOCAL, 0.05)
    (event,) = PRIVATE.participation(160, LOCAL)
    with pytest.raises(ConfigError, match="10 steps at once"):
        event.sampled(0.05)


def test_local_steps():
    assert [LOCAL.steps(n) for n in (0, 1, 16, 17, 100)] == [1, 1, 1, 2, 7]
    assert [LOCAL.rate(n) for n in (0, 1, 16, 32)] == [0.0, 1.0, 1.0, 0.5]
    assert LocalSteps(batch_size=16, local_epochs=3).steps(17) == 6
    assert LocalSteps(batch_size=16, local_epochs=3, local_steps=5).steps(17) == 5


def test_a_device_without_examples_spends_nothing_but_counts_as_drawn():
    ledger = ExampleLedger(2, 1e-5)
    ledger.charge(0, PRIVATE.participation(0, LOCAL))
    assert ledger.participations(0) == 1
    assert ledger.figures() == {"example_epsilon_max": 0, "example_epsilon_median": 0}


def test_the_claim_is_the_worst_device_and_the_median_is_over_all_devices():
    ledger = ExampleLedger(5, 1e-5)
    for device, times in ((0, 1), (1, 2), (2, 4)):
        for _ in range(times):
            ledger.charge(device, PRIVATE.participation(100, LOCAL))
    own = ledger.epsilons(range(5))
    assert own[3] == own[4] == 0
    assert 0 < own[0] < own[1] < own[2]
    figures = ledger.figures()
    assert figures == {"example_epsilon_max": own[2], "example_epsilon_median": own[0]}
    assert (ledger.bounds() >= own).all()


def test_the_highest_of_some_devices_is_the_largest_of_their_epsilons():
    ledger = ExampleLedger(5, 1e-5)
    for device, examples, participations in ((0, 40, 3), (1, 300, 9), (3, 5, 2)):
        for _ in range(participations):
            ledger.charge(device, PRIVATE.participation(examples, LOCAL))
    for some in ([0, 3], [1, 2, 4], [2, 4], [0, 1, 2, 3, 4]):
        wanted = ledger.epsilons(some, 1e-9).max()
        assert ledger.highest(np.array(some), 1e-9) == pytest.approx(wanted, rel=1e-6)
    ledger.charge(2, [NonPrivate()])
    assert ledger.highest(np.array([0, 1]), 1e-9) < math.inf
    assert ledger.highest(np.array([1, 2]), 1e-9) == math.inf


def test_a_participation_without_proof_is_infinite_on_its_device_alone():
    ledger = ExampleLedger(3, 1e-5)
    ledger.charge(0, [NonPrivate()])
    ledger.charge(1, PRIVATE.participation(10, LOCAL))
    assert ledger.epsilons(range(3))[0] == ledger.bounds()[0] == math.inf
    figures = ledger.figures()
    assert figures["example_epsilon_max"] == math.inf
    assert figures["example_epsilon_median"] == ledger.epsilons([1])[0]


def test_periods_add_up_on_one_account():
    """Deleting the first period's data refunds nothing."""
    ledger = ExampleLedger(1, 1e-5)
    first, second = PRIVATE.participation(100, LOCAL), PRIVATE.participation(40, LOCAL)
    for events in (first, second, first):
        ledger.charge(0, events)
    assert ledger.epsilons([0])[0] == epsilon([*first, *first, *second], 1e-5)


def test_a_restored_ledger_goes_on():
    one, other = ExampleLedger(3, 1e-5), ExampleLedger(3, 1e-5)
    one.charge(0, PRIVATE.participation(100, LOCAL))
    one.charge(1, [NonPrivate()])
    one.figures()
    tree, arrays = pack(one.state_dict())
    other.load_state_dict(unpack(json.loads(json.dumps(tree)), arrays))
    for ledger in (one, other):
        ledger.charge(0, PRIVATE.participation(10, LOCAL))
    assert other.figures() == one.figures()
    assert other.bounds().tolist() == one.bounds().tolist()
    assert other.participations(0) == 2


def test_calibrated_noise_keeps_every_device_within_the_target():
    """The worst is neither the lightest device nor the heaviest."""
    counts = np.array([1, 16, 17, 0, 33, 400])
    target = ExampleLevel(clip_norm=1.0, epsilon=6.0, delta=1e-5, max_participations=8)
    private = target.calibrated(counts, LOCAL)
    costs = {n: spent(n, 8, private) for n in np.unique(counts).tolist()}
    assert max(costs.values()) <= 6.0
    assert max(costs.values()) > 6.0 * 0.998
    assert max(costs, key=lambda n: costs[n]) == 17


def test_calibrated_noise_covers_devices_whose_examples_change_from_period_to_period():
    """The oracle: the exact cost of every way to spread the participations over two periods."""
    target = ExampleLevel(epsilon=6.0, delta=1e-5, max_participations=4)
    private = target.calibrated(np.array([[16, 5], [400, 0]]), LOCAL)
    for first in range(5):
        ledger = ExampleLedger(1, 1e-5)
        for held in [16] * first + [400] * (4 - first):
            ledger.charge(0, private.participation(held, LOCAL))
        assert 0 < ledger.figures()["example_epsilon_max"] <= 6.0
    steady = target.calibrated(np.array([[16, 400], [16, 400]]), LOCAL)
    assert steady == target.calibrated(np.array([16, 400]), LOCAL)


def test_micro_batches_need_twice_the_noise():
    exact = ExampleLevel(clip_norm=1.0, epsilon=4.0, delta=1e-5, max_participations=3)
    micro = replace(exact, clipping=MicroBatches(size=4))
    counts = np.array([50])
    needed = [each.calibrated(counts, LOCAL).noise_multiplier for each in (exact, micro)]
    assert needed[1] == pytest.approx(2 * needed[0], rel=3e-4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1"),
        ({"noise_multiplier": None}, "give exactly one"),
        ({"epsilon": 1.0}, "give exactly one"),
        ({"noise_multiplier": None, "epsilon": 0.0}, "epsilon is 0"),
        ({"noise_multiplier": None, "epsilon": 3.0}, "without max_participations"),
        ({"delta": 0.0}, "delta is 0"),
        ({"delta": 1.0}, "delta is 1"),
        ({"max_participations": 0}, "max_participations is 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        ExampleLevel(**{"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, **wrong})


def test_an_uncalibrated_target_cannot_be_charged():
    target = ExampleLevel(clip_norm=1.0, epsilon=6.0, delta=1e-5, max_participations=8)
    with pytest.raises(ConfigError, match=r"call calibrated\(\) first"):
        target.participation(10, LOCAL)
