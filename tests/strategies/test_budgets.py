"""Rates that follow from budgets spend them, and never more."""

import numpy as np
import pytest

from fedsim import ConfigError
from fedsim.privacy import DeviceLedger, DeviceSum, Gaussian
from strategies import BudgetSelection, budgets_for_cohort

BUDGETS = (0.5, 2.0, 2.0, 8.0, 500.0)


def policy(budgets=BUDGETS, **changes):
    return BudgetSelection(
        **{"budgets": budgets, "noise_multiplier": 1.0, "rounds": 30, "delta": 1e-4} | changes
    )


def test_ledger_of_the_run_ends_just_within_every_budget():
    rates = policy().rates(np.ones(5))
    ledger = DeviceLedger(5, delta=1e-4)
    planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=rates)
    for _ in range(30):
        ledger.charge(planned, cohort=np.zeros(0, np.int64))
    spent = ledger.epsilons(np.arange(5))
    assert (spent <= BUDGETS).all()
    # A rate one grid step higher, 0.2 %, would exceed them.
    assert (spent[:4] >= 0.99 * np.array(BUDGETS)[:4]).all()
    assert rates[4] == 1.0, "so large a budget allows every round"


def test_activity_plays_no_part_but_for_those_who_hold_nothing():
    found = policy().rates(np.array([900, 1, 30, 0, 2]))
    assert found[1] == found[2] and found[3] == 0 and found[0] < found[1]


def test_more_noise_lets_everybody_come_more_often():
    less, more = policy().rates(np.ones(5)), policy(noise_multiplier=2.0).rates(np.ones(5))
    assert (more[:4] > less[:4]).all()


def test_noise_is_found_for_a_cohort():
    found = budgets_for_cohort(BUDGETS[:4], cohort=1.0, rounds=30, delta=1e-4)
    assert found.cohort == pytest.approx(1.0, rel=0.01) and found.cohort >= 1.0
    fewer = policy(BUDGETS[:4], noise_multiplier=0.99 * found.noise_multiplier)
    assert fewer.cohort < 1.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: policy((1.0, 0.0)), "smallest of the budgets is 0"),
        (lambda: policy((1.0, np.inf)), "largest of the budgets is inf"),
        (lambda: policy(noise_multiplier=0.0), "noise_multiplier is 0.0"),
        (lambda: policy().rates(np.ones(3)), "5 budgets for 3 devices"),
        (
            lambda: budgets_for_cohort(BUDGETS, cohort=5, rounds=3, delta=1e-4),
            "cohort is 5 of 5 devices",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
