"""How large must epsilon be, given an attacker's error rates over independent runs?

An attack that decides between two neighbouring data sets has, against an (epsilon, delta)-private
mechanism, false positive and false negative rates with

    fpr + e^epsilon fnr >= 1 - delta   and   fnr + e^epsilon fpr >= 1 - delta

(Kairouz, Oh and Viswanath, ICML 2015, https://arxiv.org/abs/1311.0776). With upper ends of the two
rates that hold together, the larger of the two solutions bounds epsilon from below (Nasr et al.,
S&P 2021, https://arxiv.org/abs/2101.04535).

The ends are those of Clopper and Pearson (Biometrika 26, 1934), which need independent trials:
repeated runs, or draws of a toy mechanism. The examples of one run are not independent trials; a
bound from them would be a heuristic, and no audit uses it.
"""

import math

from scipy.special import betaincinv

from fedsim.errors import require


def repeated_runs_bound(
    *, hits: int, members: int, false_alarms: int, non_members: int, delta: float, level: float
) -> float:
    """A lower bound on epsilon from independent runs, with confidence 1 - level.

    Args:
      hits: runs with the record in which the attack said so.
      members: runs with the record.
      false_alarms: runs without it in which the attack said it was there.
      non_members: runs without it.
      delta: at which epsilon is bounded, in [0, 1).
      level: probability of a wrong bound; each error rate takes half of it.

    The attack's threshold is fixed before these runs.

    Raises:
      ConfigError: more hits than runs.

    Example:
      >>> bound = repeated_runs_bound(
      ...     hits=1000, members=1000, false_alarms=0, non_members=1000, delta=1e-5, level=0.05
      ... )
      >>> round(bound, 2)
      5.6
    """
    require(
        0 <= hits <= members and 0 <= false_alarms <= non_members,
        f"{hits} hits in {members} runs and {false_alarms} false alarms in {non_members} cannot "
        "be; give counts between 0 and the number of runs",
    )
    fnr = highest_rate(members - hits, members, level / 2)
    fpr = highest_rate(false_alarms, non_members, level / 2)
    ratios = ((1 - delta - mine) / other for mine, other in ((fpr, fnr), (fnr, fpr)))
    return max(0.0, *(math.log(ratio) if ratio > 0 else 0.0 for ratio in ratios))


def highest_rate(events: int, trials: int, level: float) -> float:
    """The one-sided upper end of a rate: larger rates give so few events with at most `level`.

    Example:
      >>> round(highest_rate(0, 100, 0.05), 4)
      0.0295
    """
    return float(betaincinv(events + 1, trials - events, 1 - level)) if events < trials else 1.0
