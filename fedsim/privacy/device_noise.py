"""How much noise does a run need at device level, and how many of its rounds does a budget allow?

Both follow from what is scheduled: rates, weights and rounds of every period, known before the
first round. Nothing that is released enters, so the answers give nothing away. Where rates or noise
follow releases, there is neither: a budget of every device's own is asked for instead.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedsim.errors import require
from fedsim.privacy.calibration import device_level_noise
from fedsim.privacy.claim import Reads
from fedsim.privacy.delta import delta_for
from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.filtered_ledger import FilteredLedger, announced_order
from fedsim.privacy.release import DeviceLevel

Period = tuple[np.ndarray, np.ndarray, int]
"""Rates (devices,), weights (devices,) and rounds of one period."""


def resolved(
    mechanism: DeviceLevel,
    periods: Sequence[Period],
    *,
    independent: bool,
    cap: float | None,
    reads: Reads = "activity",
) -> DeviceLevel:
    """The mechanism with its delta, its noise where a target epsilon is given, and its filter.

    Args:
      mechanism: as configured.
      periods: of the run; where rates or noise follow releases, as they are before the first round.
      independent: whether cohorts are drawn by independent coins.
      cap: public bound on every rate, needed under add-remove.
      reads: what rates and noise depend on.

    Raises:
      ConfigError: delta is not below one over the number of devices, the bound is missing, the
        draw compares devices that may join or leave, no noise reaches the target, or nothing
        could keep what is asked for where rates or noise follow other things than activity.
    """
    _check_reads(mechanism, reads)
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
    found = replace(mechanism, noise_multiplier=sigma, epsilon=None, delta=delta)
    if reads != "releases" or mechanism.filter_order is not None:
        return found
    assert mechanism.device_budget is not None
    announced = [(_planned(found, q, w, independent), rounds) for q, w, rounds in periods]
    order = announced_order(announced, mechanism.device_budget, delta)
    return replace(found, filter_order=order)


def opened(
    mechanism: DeviceLevel, periods: Sequence[Period], *, independent: bool, cap: float | None
) -> DeviceLedger | FilteredLedger:
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
    devices = len(periods[0][0])
    ledger: DeviceLedger | FilteredLedger
    if mechanism.filter_order is not None and own is not None:
        ledger = FilteredLedger(devices, mechanism.delta, own, mechanism.filter_order)
    else:
        ledger = DeviceLedger(
            devices,
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


def _check_reads(mechanism: DeviceLevel, reads: Reads) -> None:
    """Refuse what nothing could keep, or would use."""
    budgets = {
        "epsilon": mechanism.epsilon,
        "device_budget": mechanism.device_budget,
        "run_budget": mechanism.run_budget,
        "filter_order": mechanism.filter_order,
    }
    if reads == "private":
        for name, value in budgets.items():
            require(
                value is None,
                f"{name} is {value}, but rates or noise follow private signals, so that every "
                f"epsilon is infinite and no budget can be kept; leave {name} out, or let them "
                "follow released models alone (reads = 'releases')",
            )
    if reads == "activity":
        order = mechanism.filter_order
        require(
            order is None,
            f"filter_order is {order}, which is used only where rates or noise follow releases "
            "(reads = 'releases'); leave it out",
        )
    if reads != "releases":
        return
    require(
        mechanism.noise_multiplier != 0,
        "noise_multiplier is 0, so nothing that is released is private; choose more, or let rates "
        "and noise declare reads = 'private'",
    )
    require(
        mechanism.adjacency == "zero-out",
        "adjacency is 'add-remove', but rates or noise follow releases, and nothing shows that "
        "they then depend on no other device's data; choose 'zero-out'",
    )
    require(
        mechanism.epsilon is None,
        f"epsilon is {mechanism.epsilon}, but rates or noise follow releases, and noise for a "
        "target can be found only where they are known before the first round; give "
        "noise_multiplier, and the target as device_budget",
    )
    require(
        mechanism.run_budget is None,
        f"run_budget is {mechanism.run_budget}, but rates or noise follow releases, and the round "
        "that would exceed it cannot be known before the first; give device_budget, which holds "
        "for every device and so for the run",
    )
    require(
        mechanism.device_budget is not None,
        "rates or noise follow releases, and nothing else than a budget fixed before the first "
        "round covers that; set device_budget to the epsilon that no device may exceed",
    )


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
