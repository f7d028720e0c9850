"""How much better or worse than uniform selection is a policy, and after how much work?

Every change of error is paired by seed with the baseline. At equal rounds a policy that prefers
heavy devices has processed more data; the change at equal examples compares both runs after the
number of examples that the cheaper one processed in all.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.report.curves import ACCURACY, CENTRAL, Axis, Group, curve, value_after, work
from fedsim.report.statistics import (
    AtLeast,
    Estimate,
    estimate,
    first_reaching,
    median_reaching,
    relative_changes,
)

if TYPE_CHECKING:
    from fedsim.record import Run


def plain(groups: Sequence[Group], setting: str, selection: str) -> Group | None:
    """A policy as it is, without a variant; the first where it ran under several weightings."""
    wanted = (setting, selection, "")
    return next((g for g in groups if (g.setting, g.selection, g.variant) == wanted), None)


def baseline(groups: Sequence[Group], group: Group) -> Group | None:
    """Uniform selection in the same setting, with the same local steps where they are fixed."""
    steps = group.runs[0].config.get("local_steps")
    for other in groups:
        same = (other.setting, other.selection) == (group.setting, "uniform")
        if same and other.runs[0].config.get("local_steps") == steps:
            return other
    return plain(groups, group.setting, "uniform")


def changes(group: Group, against: Group) -> dict[int, float]:
    """Relative change of the final intent error, by seed."""
    return relative_changes(group.finals(ACCURACY), against.finals(ACCURACY))


def error_change(group: Group, against: Group, comparisons: int) -> Estimate | None:
    """Relative change of the final intent error, over seeds; None where no seed has both.

    Args:
      group: the runs to judge.
      against: the runs they are compared with.
      comparisons: policies compared with the same baseline, for the correction of the interval.
    """
    return estimate(list(changes(group, against).values()), comparisons)


def error_change_at_equal_examples(
    group: Group, against: Group, comparisons: int
) -> Estimate | None:
    """The same after the examples that the cheaper run of each pair processed in all.

    None in the continual setting, where fewer examples also mean an earlier period.
    """
    if group.setting != "static" or group.selection == CENTRAL:
        return None
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    for run, partner, amount in _at_equal_examples(group, against):
        mine, others = (value_after(one, ACCURACY, "examples", amount) for one in (run, partner))
        if mine is not None and others is not None:
            ours[run.config["seed"]], theirs[run.config["seed"]] = mine, others
    return estimate(list(relative_changes(ours, theirs).values()), comparisons)


def rounds_at_equal_examples(group: Group, against: Group) -> tuple[float, float] | None:
    """Rounds that each side took for those examples, on average over seeds; None without pairs."""
    taken = [
        [float(np.interp(amount, work(one, "examples"), work(one, "rounds"))) for one in pair]
        for *pair, amount in _at_equal_examples(group, against)
    ]
    if not taken:
        return None
    mine, others = np.mean(taken, axis=0).tolist()
    return mine, others


def _at_equal_examples(group: Group, against: Group) -> Iterator[tuple["Run", "Run", float]]:
    """Each run, its partner of the same seed, and the examples that both have processed."""
    partners = {run.config["seed"]: run for run in against.runs}
    for run in group.runs:
        partner = partners.get(run.config["seed"])
        if partner is None:
            continue
        ends = [
            done[-1] for one in (run, partner) if len(done := curve(one, ACCURACY, "examples")[0])
        ]
        if len(ends) == 2:
            yield run, partner, float(min(ends))


def reaching(group: Group, axis: Axis, target: float) -> float | AtLeast | None:
    """Work until the target accuracy, a fraction, was first measured: the median over seeds."""
    curves = [(run, *curve(run, ACCURACY, axis)) for run in group.runs]
    curves = [one for one in curves if len(one[1])]
    if not curves:
        return None
    reached = [first_reaching(done, values, target) for _, done, values in curves]
    return median_reaching(reached, [float(work(run, axis)[-1]) for run, _, _ in curves])
