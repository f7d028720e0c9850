"""The ledger of device-level privacy against a dense table of every device and round."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population import Population
from fedsim.privacy import DeviceLedger, DeviceSum, Gaussian, NonPrivate, epsilon
from fedsim.rng import stream
from fedsim.state import pack, unpack
from strategies import ActivitySelection, LogActivitySelection, UniformSelection

UNIT = Gaussian(noise_multiplier=1.0)
NOBODY = np.array([], np.int64)


def planned(rates, weights=None, event=UNIT, independent=True):
    rates = np.asarray(rates, np.float64)
    weights = None if weights is None else np.asarray(weights, np.float64)
    return DeviceSum(event=event, rates=rates, weights=weights, independent=independent)


def charged(rates, rounds, delta=1e-4, cohort=NOBODY, **more):
    ledger = DeviceLedger(len(rates), delta)
    for _ in range(rounds):
        ledger.charge(planned(rates, **more), cohort)
    return ledger


def dense(rounds, device, delta):
    """One device's epsilon, every round its own event, without grids, groups or pruning."""
    events = []
    for each in rounds:
        weight = 1.0 if each.weights is None else each.weights[device]
        if weight > 0:
            noise = each.event.noise_multiplier / weight
            events.append(Gaussian(noise_multiplier=noise, rate=each.rates[device]))
    return epsilon(events, delta)


@st.composite
def runs(draw):
    """A few periods of rounds over a few devices, with weights, arrivals and changing noise."""
    devices = draw(st.integers(1, 5))
    levels = st.sampled_from([0.0, 0.003, 0.05, 0.31, 1.0])
    rounds = []
    for _ in range(draw(st.integers(1, 4))):
        rates = draw(st.lists(levels, min_size=devices, max_size=devices))
        weights = st.lists(
            st.sampled_from([0.0, 0.2, 0.55, 1.0]), min_size=devices, max_size=devices
        )
        event = Gaussian(noise_multiplier=draw(st.sampled_from([0.8, 1.0, 3.0])))
        each = planned(rates, draw(st.none() | weights), event)
        rounds += [each] * draw(st.integers(1, 30))
    return devices, rounds


@settings(max_examples=25, deadline=None)
@given(runs())
def test_every_device_pays_what_the_dense_table_says(run):
    """At most 1 % more (grids), never less by more than the 0.1 % of the transforms' grid."""
    devices, rounds = run
    ledger = DeviceLedger(devices, 1e-5)
    for each in rounds:
        ledger.charge(each, NOBODY)
    known = np.array([dense(rounds, i, 1e-5) for i in range(devices)])
    found = ledger.epsilons(np.arange(devices))
    assert (found >= known * 0.999 - 1e-9).all()
    assert (found <= known * 1.01 + 1e-9).all()
    assert (ledger.bounds() >= found * 0.999 - 1e-9).all()
    figures = ledger.figures()
    # Devices that differ by less than the grid may change places.
    assert figures["epsilon_max"] == pytest.approx(found.max(), rel=1e-3)
    middle = np.sort(found)[devices // 2]
    assert middle * 0.999 <= figures["epsilon_median"] <= figures["epsilon_max"] * 1.001


@settings(max_examples=15, deadline=None)
@given(runs(), st.sampled_from(["zero-out", "replace-one"]))
def test_the_highest_of_some_devices_is_the_largest_of_their_epsilons(run, relation):
    devices, rounds = run
    ledger = DeviceLedger(devices, 1e-5)
    for each in rounds:
        ledger.charge(each, NOBODY)
    some = np.arange(0, devices, 2)
    found = ledger.highest(some, 1e-9, relation)
    assert found == pytest.approx(ledger.epsilons(some, 1e-9, relation).max(), rel=1e-3)


def test_the_highest_of_nobody_is_nothing_and_without_noise_infinite():
    ledger = charged([0.1, 0.2], 3)
    assert ledger.highest(NOBODY, 1e-9) == 0
    ledger.charge(planned([0.1, 0.2], event=NonPrivate()), NOBODY)
    assert ledger.highest(np.array([0]), 1e-9) == math.inf


TABLE = {
    "uniform": (UniformSelection(cohort=32), 4.20, 4.20, 4.20),
    "log": (LogActivitySelection(cohort=32), 1.07, 4.28, 8.93),
    "sqrt": (ActivitySelection(cohort=32, power=0.5), 1.04, 3.80, 14.7),
    "n": (ActivitySelection(cohort=32), 0.19, 2.67, 42.9),
    "n^2": (ActivitySelection(cohort=32, power=2), 0.0026, 0.88, 152),
}
"""Epsilon of the least, the median and the most active device of `massive`. For the 0.0026,
dp-accounting gives 0.0064 on a grid of 1e-3, 0.0027 at 1e-4 and 0.0026 at 2e-5."""


@pytest.fixture(scope="module")
def massive_activity(data_folder):
    if not (data_folder / "massive_en_us").is_dir():
        pytest.skip("needs the massive_en_us data set")
    return Population.load("massive", data=data_folder).activity(0)


@pytest.mark.parametrize("name", TABLE)
def test_the_price_of_activity_on_massive(massive_activity, name):
    """200 rounds, sigma 1, delta 1e-4, equal weights, the 612 people with training rows."""
    policy, least, median, most = TABLE[name]
    activity = massive_activity[massive_activity > 0]
    assert len(activity) == 612
    ledger = charged(policy.rates(activity), 200)
    figures = ledger.figures()
    ends = ledger.epsilons(np.array([activity.argmin(), activity.argmax()]))
    assert ends[0] == pytest.approx(least, rel=0.01 if least > 1 else 0.04)
    assert figures["epsilon_median"] == pytest.approx(median, rel=0.01)
    assert ends[1] == pytest.approx(most, rel=0.01)
    assert figures["epsilon_max"] == ends[1]


def test_an_audit_of_examples_is_compared_with_replacing_one(massive_activity):
    """The most active device under rates proportional to activity: 42.8 becomes 86.7."""
    activity = massive_activity[massive_activity > 0]
    ledger = charged(ActivitySelection(cohort=32).rates(activity), 200)
    heaviest = np.array([activity.argmax()])
    assert ledger.epsilons(heaviest, relation="replace-one")[0] == pytest.approx(86.7, rel=0.01)
    assert ledger.epsilons(heaviest, delta=1e-8)[0] > ledger.epsilons(heaviest)[0]


def test_a_fixed_size_draw_is_never_priced_as_independent_coins():
    """50 of 1000, 100 rounds, sigma 1, delta 1e-4: 86.3 ex ante, where coins would cost 2.87."""
    rates = np.full(1000, 0.05)
    ledger = charged(rates, 100, cohort=np.arange(50), independent=False)
    figures = ledger.figures()
    assert figures["epsilon_max"] == pytest.approx(86.3, rel=1e-3)
    assert figures["epsilon_median"] == figures["epsilon_max"]
    by_coins = charged(rates, 100).figures()["epsilon_max"]
    assert by_coins == pytest.approx(2.87, rel=0.01)


def test_a_fixed_size_draw_costs_only_those_who_could_have_come():
    ledger = charged([0.5, 0.0], 10, independent=False)
    assert ledger.epsilons(np.array([1]))[0] == 0


def test_who_sees_participations_sees_them_without_amplification():
    """K participations under sigma 2 are one Gaussian with mu = sqrt(K) / 2."""
    ledger = DeviceLedger(3, 1e-5)
    event = Gaussian(noise_multiplier=2.0)
    for cohort in ([0, 1], [1], [1], []):
        each = planned([0.1, 0.1, 0.1], [1.0, 0.5, 1.0], event)
        ledger.charge(each, np.array(cohort, np.int64))
    own = ledger.participation_epsilons(np.arange(3))
    assert own[0] == pytest.approx(epsilon([event], 1e-5))
    assert own[1] == pytest.approx(
        epsilon([Gaussian(noise_multiplier=4.0, steps=3)], 1e-5), rel=1e-9
    )
    assert own[2] == 0
    assert ledger.figures()["epsilon_participation_max"] == own.max()


def test_the_server_is_never_protected():
    assert charged([0.01], 1).figures()["epsilon_server_max"] == math.inf


@pytest.mark.parametrize("event", [NonPrivate(), Gaussian(noise_multiplier=0.0)])
def test_one_round_without_a_proof_makes_everything_infinite_for_ever(event):
    ledger = charged([0.1, 0.2], 5)
    ledger.charge(planned([0.1, 0.0], event=event), NOBODY)
    ledger.charge(planned([0.1, 0.2]), NOBODY)
    assert set(ledger.figures().values()) == {math.inf}
    assert np.isinf(ledger.bounds()).all()
    assert np.isinf(ledger.epsilons(np.arange(2))).all()
    assert np.isinf(ledger.participation_epsilons(np.arange(2))).all()


def test_late_devices_start_when_they_arrive_and_leaving_refunds_nothing():
    ledger = DeviceLedger(2, 1e-5)
    for _ in range(10):
        ledger.charge(planned([0.2, 0.0]), NOBODY)
    before = ledger.epsilons(np.arange(2))
    for _ in range(10):
        ledger.charge(planned([0.0, 0.2]), NOBODY)
    after = ledger.epsilons(np.arange(2))
    assert before[1] == 0 < before[0]
    assert after.tolist() == [before[0], before[0]]


def test_memory_does_not_grow_with_rounds():
    """One column a period, and none for devices that drop out of it or come back."""
    ledger = DeviceLedger(4, 1e-5)
    rates = np.array([0.1, 0.2, 0.3, 0.4])
    for round in range(300):
        period = 1 + round // 100
        ledger.charge(planned(rates / period * (np.arange(4) != round % 4)), NOBODY)
    assert len(ledger.state_dict()["histories"]["steps"]) == 3
    groups, group = ledger.groups()
    assert [sum(n for _, _, n in groups.history(g)) for g in group] == [225] * 4


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 0.9), st.floats(0.05, 0.9), st.floats(1.01, 3), st.integers(1, 200))
def test_cost_rises_with_rounds_own_rate_and_own_weight(rate, weight, more, rounds):
    """At fixed S. Up to the 0.1 % of the transforms' grid."""
    base = charged([rate], rounds, weights=[weight]).epsilons([0])[0] * 0.999
    assert charged([rate], rounds + 1, weights=[weight]).epsilons([0])[0] >= base
    assert charged([min(1, rate * more)], rounds, weights=[weight]).epsilons([0])[0] >= base
    assert charged([rate], rounds, weights=[min(1, weight * more)]).epsilons([0])[0] >= base


def test_reported_figures_never_fall():
    ledger = DeviceLedger(3, 1e-5)
    seen = []
    for _ in range(40):
        ledger.charge(planned([0.003, 0.02, 0.3]), np.array([2]))
        seen.append(list(ledger.figures().values())[:3])
    assert (np.diff(np.array(seen), axis=0) >= 0).all()


def test_light_weights_hide_in_noise_made_for_heavy_ones():
    light, heavy = charged([0.1, 0.1], 50, weights=[0.1, 1.0]).epsilons(np.arange(2))
    assert 0 < light < heavy / 10
    assert heavy == charged([0.1], 50).epsilons(np.arange(1))[0]


def test_add_remove_claims_at_the_public_cap():
    ledger = DeviceLedger(3, 1e-4, adjacency="add-remove", cap=0.05)
    for _ in range(100):
        ledger.charge(planned([0.001, 0.01, 0.02], [0.1, 0.5, 0.9]), np.array([1]))
    figures = ledger.figures()
    assert figures["epsilon_max"] == pytest.approx(2.870, rel=0.01)
    assert figures["epsilon_participation_max"] == math.inf
    assert figures["epsilon_median"] < figures["epsilon_max"]
    assert "add/remove" in ledger.assumption


def test_a_rate_above_the_public_cap_is_refused():
    ledger = DeviceLedger(1, 1e-4, adjacency="add-remove", cap=0.05)
    with pytest.raises(ConfigError, match=r"above the public cap of 0\.05"):
        ledger.charge(planned([0.06]), NOBODY)


def test_zero_out_says_that_activity_is_public():
    assert "activity and membership are treated as public" in DeviceLedger(1, 1e-5).assumption


def test_a_restored_ledger_goes_on_as_if_nothing_had_happened():
    rates = stream(3, "test").random((2, 6))
    straight, first = DeviceLedger(6, 1e-5), DeviceLedger(6, 1e-5)
    for round in range(10):
        for ledger in (straight, first):
            ledger.charge(planned(rates[round // 8]), np.array([round % 6]))
    straight.figures(), first.figures()
    tree, arrays = pack(first.state_dict())
    second = DeviceLedger(6, 1e-5)
    second.load_state_dict(unpack(json.loads(json.dumps(tree)), arrays))
    for round in range(10, 20):
        for ledger in (straight, second):
            ledger.charge(planned(rates[round // 8 % 2]), np.array([round % 6]))
    assert second.figures() == straight.figures()
    assert second.bounds().tolist() == straight.bounds().tolist()


def test_a_budget_retires_a_device_before_it_is_exceeded_and_not_long_before():
    rates = np.array([0.02, 0.2, 0.5])
    ledger = DeviceLedger(3, 1e-5, budget=np.array([4.0, 4.0, np.inf]))
    alive = np.ones(3, bool)
    last = np.zeros(3, int)
    for round in range(60):
        alive &= ledger.affordable(planned(rates))
        last[alive] = round
        ledger.charge(planned(np.where(alive, rates, 0.0)), NOBODY)
    spent = ledger.epsilons(np.arange(3))
    assert alive.tolist() == [True, False, True]
    assert 0 < last[1] < 59
    assert spent[1] <= 4.0
    assert charged([0.2], last[1] + 2, delta=1e-5).epsilons([0])[0] > 4.0


def test_no_budget_pays_for_a_round_without_noise():
    silent = planned([0.1, 0.1], event=NonPrivate())
    ledger = DeviceLedger(2, 1e-5, budget=np.array([100.0, np.inf]))
    assert ledger.affordable(silent).tolist() == [False, True]


def test_a_round_that_would_take_somebody_above_the_budget_is_not_charged():
    ledger = DeviceLedger(2, 1e-5, budget=4.0)
    with pytest.raises(ConfigError, match="would take 1 devices above their budgets"):
        ledger.charge(planned([0.01, 1.0], event=Gaussian(noise_multiplier=0.5)), NOBODY)
    assert ledger.bounds().tolist() == [0.0, 0.0]


def test_the_claim_of_very_many_devices_is_within_the_budget_that_all_of_them_keep():
    """They cost nearly the same by histories of which none contains another, so that sets of them
    are priced, which alone would show more than anybody may spend."""
    up = np.linspace(0.01, 0.06, 150)
    ledger, unlimited = DeviceLedger(150, 1e-5, budget=1.5), DeviceLedger(150, 1e-5)
    for rates in (up, up[::-1], 0.03 + 0.02 * np.sin(400 * up)):
        for _ in range(30):
            event = planned(np.where(ledger.affordable(planned(rates)), rates, 0.0))
            ledger.charge(event, NOBODY)
            unlimited.charge(event, NOBODY)
    assert unlimited.figures()["epsilon_max"] > 1.5
    assert ledger.epsilons(np.arange(150)).max() <= ledger.figures()["epsilon_max"] <= 1.5


def test_local_steps_cannot_be_charged_at_the_product_of_two_rates():
    local = Gaussian(noise_multiplier=1.0, rate=0.1, steps=10)
    with pytest.raises(ConfigError, match=r"10 steps at rate 0\.1; give one unsampled step"):
        planned([0.05], event=local)


@pytest.mark.parametrize("arguments", [(0, 1e-5), (3, 0.0), (3, 1.0)])
def test_impossible_ledgers_are_refused(arguments):
    with pytest.raises(ConfigError):
        DeviceLedger(*arguments)


def test_rounds_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="rates of 2 devices, but the ledger has 3"):
        DeviceLedger(3, 1e-5).charge(planned([0.1, 0.1]), NOBODY)
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\]"):
        planned([0.1, 1.5])


def test_nobody_exceeds_the_device_that_is_called_worst():
    """Rates fall and weights rise with the device, so that the worst is neither end."""
    ledger = DeviceLedger(9, delta=1e-4)
    rates, weights = np.geomspace(0.9, 0.01, 9), np.linspace(0.1, 1.0, 9)
    planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=rates, weights=weights)
    for _ in range(30):
        ledger.charge(planned, cohort=np.zeros(0, np.int64))
    everybody = ledger.epsilons(np.arange(9))
    assert 0 < ledger.worst() < 8
    assert everybody[ledger.worst()] == everybody.max() == ledger.figures()["epsilon_max"]
