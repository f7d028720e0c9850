"""What do Gaussian sums cost that a unit is always in?

Without a coin, n sums with effective noises s_1 ... s_n cost exactly what one sum with
mu = sqrt(sum of s_t^-2) costs, and its delta is known (Balle and Wang, "Improving the Gaussian
mechanism for differential privacy", ICML 2018, https://arxiv.org/abs/1805.06530, theorem 8):

    delta(epsilon) = Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2).
"""

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Smallest delta at an epsilon.

    Args:
      mu: root of the summed squares of 1 / effective noise, >= 0.
      epsilon: >= 0.

    Example:
      >>> round(gaussian_delta(1.0, 1.0), 4)
      0.1269
    """
    if mu == 0:
        return 0.0
    upper = float(log_ndtr(-epsilon / mu + mu / 2))
    lower = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
    # Both terms may be tiny and nearly equal; their difference is taken in the exponent.
    return -math.exp(upper) * math.expm1(min(lower - upper, 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon >= 0 at a delta in (0, 1).

    Example:
      >>> round(gaussian_epsilon(10.0, 1e-4), 1)
      86.3
    """
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    if math.isinf(mu):
        return math.inf
    # Phi(-t) <= e^(-t^2 / 2), so that delta is certainly reached at the upper end.
    high = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    root = brentq(lambda e: gaussian_delta(mu, e) - delta, 0.0, high, xtol=1e-12, rtol=1e-12)
    return float(root)
