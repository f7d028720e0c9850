"""A policy that hunts one device by what was released learns no more than the budget that the
filter claims, and more where the filter is broken.

Every device of a ledger here is the hunted one of a world of its own: a mechanism of one dimension,
in half of the worlds without what the device would add. Worlds do not touch each other, so that one
filter decides for all of them, round by round, who can still pay.
"""

from dataclasses import replace

import numpy as np
import pytest
from broken import Forgetful
from scipy.stats import beta

from fedsim.privacy import DeviceSum, Gaussian
from fedsim.privacy.filtered_ledger import FilteredLedger
from fedsim.rng import stream

WORLDS, ROUNDS, SIGMA = 40_000, 40, 4.0
BUDGET, DELTA, ORDER = 2.0, 1e-2, 5
LEVEL = 1e-3


class HalfRate(FilteredLedger):
    """A filter that charges as if every device came half as often."""

    def _cost(self, planned):
        return super()._cost(replace(planned, rates=planned.rates / 2))


def evidence(kind: type[FilteredLedger], adds: float) -> np.ndarray:
    """Log likelihood ratio of the device's presence after all rounds, (WORLDS,).

    Args:
      kind: of the filter.
      adds: what the device adds to a sum that it is in.
    """
    ledger, event = kind(WORLDS, DELTA, BUDGET, ORDER), Gaussian(noise_multiplier=SIGMA)
    found, noise = np.zeros(WORLDS), stream(0, "hunted", int(adds))
    for _ in range(ROUNDS):
        # Where it seems to be there it is asked every time, as long as it can pay for that.
        rates = np.where(found >= 0, 1.0, 0.3)
        for cheaper in (0.3, 0.0):
            within = ledger.affordable(DeviceSum(event=event, rates=rates))
            rates = np.where(within, rates, cheaper)
        came = noise.random(WORLDS) < rates
        ledger.charge(DeviceSum(event=event, rates=rates), np.flatnonzero(came))
        released = adds * came + SIGMA * noise.standard_normal(WORLDS)
        found += np.log1p(rates * np.expm1((2 * released - 1) / (2 * SIGMA**2)))
    return found


def certified(kind: type[FilteredLedger]) -> float:
    """Epsilon at DELTA that is exceeded with confidence 1 - LEVEL (Clopper and Pearson)."""
    there, absent = (evidence(kind, adds) for adds in (1.0, 0.0))
    half = WORLDS // 2

    def bound(threshold: float, worlds: slice) -> float:
        hits = int((there[worlds] > threshold).sum())
        misses = int((absent[worlds] > threshold).sum())
        least = beta.ppf(LEVEL / 2, hits, half - hits + 1) - DELTA
        return float(np.log(max(least, 1e-9) / beta.ppf(1 - LEVEL / 2, misses + 1, half - misses)))

    # The threshold is chosen on one half of the worlds and tried on the other.
    thresholds = np.quantile(there[:half], np.linspace(0.02, 0.98, 49)).tolist()
    return bound(max(thresholds, key=lambda each: bound(each, slice(half))), slice(half, None))


@pytest.mark.slow
def test_who_hunts_a_device_learns_less_than_the_budget_and_more_of_a_broken_filter():
    sound = certified(FilteredLedger)
    assert 0.4 * BUDGET < sound <= BUDGET
    assert certified(Forgetful) > 1.1 * sound
    assert certified(HalfRate) > BUDGET
