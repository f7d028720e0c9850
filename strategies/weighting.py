"""What does a device's update weigh, and how is that weight bounded where privacy hangs on it?

Without privacy a weight is n (examples), 1, or n / q (inverse rate), and only ratios matter. Under
device-level DP one device moves the sum by at most C times the largest weight, so weights are
bounded first, to at most 1: examples weigh min(n, cap) / cap, and inverse rates
min(n, cap) / cap x min(1, q_least / q). The cap and the least rate are public constants; where
activity is public (zero-out), they may be the largest activity and the smallest rate there are.
Under add/remove a weight above the public bound counts as the bound: to refuse it would tell that
such a device is there.
"""

import numpy as np

from fedsim.errors import ConfigError
from fedsim.privacy.release import DeviceLevel


def weights_of(weighting: str, activity: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Aggregation weights of every device, not normalised.

    Args:
      weighting: "examples", "inverse-rate", or anything else for equal weights.
      activity: (devices,) examples each holds.
      rates: (devices,) participation rates.

    Returns:
      (devices,) weights; under inverse rates, 0 for a device that never comes.

    Example:
      >>> weights_of("inverse-rate", np.array([4, 1, 0]), np.array([0.5, 0.5, 0.0])).tolist()
      [8.0, 2.0, 0.0]
    """
    if weighting == "examples":
        return activity.astype(np.float64)
    if weighting == "inverse-rate":
        return np.divide(activity, rates, out=np.zeros(len(rates)), where=rates > 0)
    return np.ones(len(rates))


def bounded_weights(
    weighting: str, activity: np.ndarray, rates: np.ndarray, mechanism: DeviceLevel
) -> np.ndarray:
    """Aggregation weights of every device, between 0 and 1.

    Args:
      weighting: as above.
      activity: (devices,) examples each holds.
      rates: (devices,) participation rates.
      mechanism: supplies the public constants, where it must.

    Raises:
      ConfigError: neighbours differ in a whole device, and a constant is missing.

    Example:
      >>> mechanism = DeviceLevel(noise_multiplier=1.0, example_cap=2)
      >>> bounded_weights("examples", np.array([4, 1]), np.array([0.5, 0.5]), mechanism).tolist()
      [1.0, 0.5]
    """
    most = 1.0 if mechanism.weight_cap is None else mechanism.weight_cap
    if weighting not in ("examples", "inverse-rate"):
        return np.full(len(rates), min(1.0, most))
    comes = rates > 0
    cap, least = mechanism.example_cap, mechanism.smallest_rate
    if mechanism.adjacency == "zero-out":
        cap = cap or int(activity.max(initial=1))
        least = least or float(rates[comes].min(initial=1.0))
    if cap is None:
        raise ConfigError(
            f"weighting is {weighting!r} under adjacency 'add-remove', which needs a public "
            "example_cap"
        )
    weights = np.minimum(activity, cap) / cap
    if weighting == "inverse-rate":
        if least is None:
            raise ConfigError(
                "weighting is 'inverse-rate' under adjacency 'add-remove', which needs a public "
                "smallest_rate"
            )
        weights *= np.minimum(1.0, np.divide(least, rates, out=np.zeros(len(rates)), where=comes))
    return np.minimum(weights, most)
