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
      ConfigError: delta is not below one over the number of devices, the bound is missing, or no
        noise reaches the target.
    """
    devices = len(periods[0][0])
    delta = delta_for(devices, mechanism.delta, "devices")
    if mechanism.adjacency == "add-remove":
        require(
            cap is not None,
            "adjacency is 'add-remove', under which rates may depend on nothing but a device's own "
            "data and public constants; use PublicScale(policy, scale=...) with a cap",
        )
    sigma = mechanism.noise_multiplier
    if mechanism.epsilon is not None:
        sigma = device_level_noise(
            mechanism.epsilon, delta, _priced(mechanism, periods, cap), independent
        )
    return replace(mechanism, noise_multiplier=sigma, epsilon=None, delta=delta)


def last_round(
    mechanism: DeviceLevel, periods: Sequence[Period], *, independent: bool, cap: float | None
) -> int | None:
    """The last round before the worst device would exceed the run's budget; None if none does.

    Raises:
      ConfigError: the first round would.
    """
    budget = mechanism.run_budget
    if budget is None:
        return None
    adjacency, delta = mechanism.adjacency, mechanism.delta
    assert delta is not None
    bound = cap if adjacency == "add-remove" else None
    total = sum(rounds for _, _, rounds in periods)

    def spent(rounds: int) -> float:
        ledger = DeviceLedger(len(periods[0][0]), delta, adjacency, bound)
        nobody = np.zeros(0, np.int64)
        for rates, weights, most in periods:
            release = mechanism.release(rates=rates, weights=weights)
            event = release.event(rates, weights, independent=independent)
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
