"""How much noise does a run need at device level, and how many of its rounds does a budget allow?

Both follow from what is scheduled: rates, weights and rounds of every period, known before the
first round. Nothing that is released enters, so the answers give nothing away.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedsim.errors import require
from fedsim.privacy.calibration import device_level_noise
from fedsim.privacy.delta import delta_for
from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.release import DeviceLevel

Period = tuple[np.ndarray, np.ndarray, int]
"""Rates (devices,), weights (devices,) and rounds of one period."""


def resolved(
    mechanism: DeviceLevel, periods: Sequence[Period], *, independent: bool, cap: float | None
) -> DeviceLevel:
    """The mechanism with its delta, and its noise where a target epsilon is given.

    Args:
      mechanism: as configured.
      periods: of the run.
      independent: whether cohorts are drawn by independent coins.
      cap: public bound on every rate, needed under add-remove.

    Raises:
      ConfigError: delta is not below one over the number of devices, the bound is missing, the
        draw compares devices that may join or leave, or no noise reaches the target.
    """
    devices = len(periods[0][0])
    delta = delta_for(devices, mechanism.delta, "devices")
    if mechanism.adjacency == "add-remove":
        require(
            cap is not None,
            "adjacency is 'add-remove', under which rates may depend on nothing but a device's own "
            "data and public constants; give --scale and --cap, or in a script "
            "PublicScale(policy=..., scale=...) around a policy with a cap",
        )
        require(
            independent,
            "draw is of fixed size under adjacency 'add-remove', where a device that joins changes "
            "who else is drawn, so that no bound is known; choose draw 'poisson'",
        )
    sigma = mechanism.noise_multiplier
    if mechanism.epsilon is not None:
        sigma = device_level_noise(
            mechanism.epsilon, delta, _priced(mechanism, periods, cap), independent
        )
    return replace(mechanism, noise_multiplier=sigma, epsilon=None, delta=delta)


def opened(
    mechanism: DeviceLevel, periods: Sequence[Period], *, independent: bool, cap: float | None
) -> DeviceLedger:
    """The ledger of a run, before its first round.

    Args:
      mechanism: resolved.
      periods: of the run.
      independent: whether cohorts are drawn by independent coins.
      cap: public bound on every rate, needed under add-remove.

    Raises:
      ConfigError: no device can pay for a single round of any period.
    """
    assert mechanism.delta is not None
    own = mechanism.device_budget
    ledger = DeviceLedger(
        len(periods[0][0]),
        mechanism.delta,
        mechanism.adjacency,
        cap if mechanism.adjacency == "add-remove" else None,
        np.inf if own is None else own,
    )
    require(
        own is None
        or any(
            (
                ledger.affordable(_planned(mechanism, rates, weights, independent)) & (rates > 0)
            ).any()
            for rates, weights, _ in periods
        ),
        f"device_budget is {own}, which a single round would exceed for every device; choose more "
        "noise or a larger budget",
    )
    return ledger


def last_round(
    mechanism: DeviceLevel, periods: Sequence[Period], *, independent: bool, cap: float | None
) -> int | None:
    """The last round before the worst device would exceed the run's budget; None if none does.

    Raises:
      ConfigError: the first round would.
    """
    budget, own = mechanism.run_budget, mechanism.device_budget
    # Where nobody exceeds a budget of their own, the worst device does not either. Under add-remove
    # the claim is at the cap, whoever sits out.
    kept = own is not None and budget is not None and own <= budget
    if budget is None or (kept and mechanism.adjacency == "zero-out"):
        return None
    unlimited = replace(mechanism, device_budget=None)
    total = sum(rounds for _, _, rounds in periods)

    def spent(rounds: int) -> float:
        ledger = opened(unlimited, periods, independent=independent, cap=cap)
        nobody = np.zeros(0, np.int64)
        for rates, weights, most in periods:
            event = _planned(mechanism, rates, weights, independent)
            for _ in range(min(most, rounds)):
                ledger.charge(event, nobody)
            rounds -= min(most, rounds)
        return ledger.figures()["epsilon_max"]

    if spent(total) <= budget:
        return None
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        if spent(middle) <= budget:
            low = middle
        else:
            high = middle
    require(
        low > 0,
        f"run_budget is {budget:g}, which the first round exceeds; choose more noise or a larger "
        "budget",
    )
    return low


def _planned(
    mechanism: DeviceLevel, rates: np.ndarray, weights: np.ndarray, independent: bool
) -> DeviceSum:
    """A round with everybody in it."""
    release = mechanism.release(rates=rates, weights=weights)
    return release.event(rates, weights, independent=independent)


def _priced(
    mechanism: DeviceLevel, periods: Sequence[Period], cap: float | None
) -> list[tuple[np.ndarray, np.ndarray | None, int]]:
    """Rates and relative weights that the claim is about."""
    if mechanism.adjacency == "add-remove":
        return [(np.array([cap]), None, rounds) for _, _, rounds in periods]
    priced: list[tuple[np.ndarray, np.ndarray | None, int]] = []
    for rates, weights, rounds in periods:
        largest = float(weights[rates > 0].max(initial=0.0)) or 1.0
        priced.append((rates, np.minimum(weights / largest, 1.0), rounds))
    return priced
