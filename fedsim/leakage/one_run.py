"""How large must epsilon be, given what an attacker guessed right in a single run?

Fair independent coins decided which of m canaries were trained on. The attacker guesses r of the
coins and abstains from the others; v guesses are right. If training is (epsilon, delta)-private,
then with p = e^epsilon / (1 + e^epsilon) and W ~ Binomial(r, p), the probability of v or more right
guesses is at most

    beta + 2 m delta alpha,   beta = P[W >= v],   alpha = max_{1 <= i <= v} (P[W >= v-i] - beta) / i

(Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, theorem
5.2, https://arxiv.org/abs/2305.08846). An epsilon for which this is at most the level is rejected.
For 2 m delta <= 1 the expression grows with epsilon, because every term is a mixture of two tails
with weights 1 - 2 m delta / i and 2 m delta / i; so the rejected ones form an interval, and
bisection finds its end.
"""

import numpy as np
from scipy.special import betainc, betaincinv, expit, gammaln, log_expit, logit

from fedsim.errors import require

HALVINGS = 50
"""Bisection steps: the bound is exact to 1e-13."""


def one_run_bound(
    *, correct: int, guesses: int, canaries: int, delta: float, level: float
) -> float:
    """The largest epsilon that is rejected; epsilon is above it with confidence 1 - level.

    Args:
      correct: right guesses, v.
      guesses: guesses made, r; their number is fixed before training.
      canaries: fair coins thrown, m.
      delta: at which epsilon is bounded, >= 0, with 2 m delta <= 1.
      level: probability of a wrong bound, corrected for everything else that is looked at.

    Returns:
      The bound, 0 where nothing is rejected.

    Raises:
      ConfigError: counts that do not fit together, or a delta above 1 / (2 m).

    Example:
      >>> round(one_run_bound(correct=100, guesses=100, canaries=100, delta=1e-5, level=0.05), 1)
      3.5
    """
    require(
        0 <= correct <= guesses <= canaries,
        f"{correct} right of {guesses} guesses on {canaries} canaries cannot be; "
        "give 0 <= correct <= guesses <= canaries",
    )
    require(
        0 <= 2 * canaries * delta <= 1,
        f"delta is {delta:g} with {canaries} canaries; choose {1 / (2 * max(canaries, 1)):g} "
        "(half of 1 / canaries) or less",
    )
    if correct == 0:
        return 0.0
    right = np.arange(correct - 1, -1, -1)
    ways = gammaln(guesses + 1) - gammaln(right + 1) - gammaln(guesses - right + 1)
    wrong, steps = guesses - right, np.arange(1, correct + 1)

    def probability(epsilon: float) -> float:
        each = np.exp(ways + right * log_expit(epsilon) + wrong * log_expit(-epsilon))
        alpha = (np.cumsum(each) / steps).max()
        beta = betainc(correct, guesses - correct + 1, expit(epsilon))
        return float(beta + 2 * canaries * delta * alpha)

    if probability(0.0) > level:
        return 0.0
    # Without the delta term the end is known in closed form, and the term only lowers it.
    low, high = 0.0, float(logit(betaincinv(correct, guesses - correct + 1, level)))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) <= level else (low, middle)
    return low


def correct_guesses(scores: np.ndarray, member: np.ndarray, guesses: int) -> int:
    """Right guesses where the highest scores are guessed in and the lowest out.

    Args:
      scores: (m,) an attack's, higher where it believes in membership.
      member: (m,) bool, how the coins fell.
      guesses: how many, half of them (the larger half) "in"; ties go by position, which knows
        nothing of the coins.

    Example:
      >>> correct_guesses(np.array([5.0, 4.0, 1.0, 0.0]), np.array([1, 0, 0, 0], bool), 3)
      2
    """
    order = np.argsort(scores, kind="stable")
    out = guesses // 2
    said_in = order[len(order) - (guesses - out) :]
    return int((~member[order[:out]]).sum() + member[said_in].sum())
