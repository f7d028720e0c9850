"""What did the comparison of selection policies come to, in plain sentences?

Every sentence is computed from the runs and reads the same way whichever way they fall. A change
counts only where its interval, corrected for the number of policies, leaves out zero.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fedsim.report.curves import Group, work
from fedsim.report.effects import (
    changes,
    error_change,
    error_change_at_equal_examples,
    plain,
    rounds_at_equal_examples,
)
from fedsim.report.statistics import Estimate, estimate


def outcome(groups: Sequence[Group], comparisons: int) -> str:
    """Whether activity helps, and whether it helps more when data arrives over time."""
    pairs = _pairs(groups)
    found = {name: error_change(*pair, comparisons) for name, pair in pairs.items()}
    effects = {name: effect for name, effect in found.items() if effect is not None}
    if not effects:
        return "Activity-based and uniform selection were not both measured."
    before = dict(zip([*effects][1:], effects.values(), strict=False))
    said = " and ".join(
        f"{_effect(effect, before.get(name))} in the {name} setting"
        for name, effect in effects.items()
    )
    text = f"At equal rounds activity-based selection {said}."
    if len(effects) < 2:
        return text
    if any(effect.low is None for effect in effects.values()):
        return f"{text} One seed says nothing about chance."
    static, continual = changes(*pairs["static"]), changes(*pairs["continual"])
    gap = estimate([continual[seed] - static[seed] for seed in continual if seed in static])
    if gap is None or gap.low is None:
        return text
    size = f"difference of the two changes {_signed(gap, 'points')}"
    if comparisons > 1:
        size += ", a single comparison whose interval is not corrected"
    return f"{text} {_verdict(effects, gap, size)}"


def _verdict(effects: Mapping[str, Estimate], gap: Estimate, size: str) -> str:
    """What is left of the claim; `gap` is the change in the continual setting minus the static."""
    direction = _direction(gap)
    if direction:
        text = f"It does {'better' if direction < 0 else 'worse'} in the continual setting"
    else:
        text = "Its effect does not differ measurably between the settings"
    text += f" ({size})."
    claim = "the claim that activity helps, and helps more in the continual setting,"
    helps = [name for name, effect in effects.items() if _direction(effect) < 0]
    if not helps:
        return f"{text} So, at equal rounds, {claim} is not borne out."
    if len(helps) == 2 and direction < 0:
        return f"{text} So, at equal rounds, {claim} is borne out."
    first = "" if len(helps) == 2 else f" in the {helps[0]} setting alone"
    second = "holds too" if direction < 0 else "is not shown"
    return (
        f"{text} So, at equal rounds, of {claim} the first half holds{first}, the second {second}."
    )


def at_equal_examples(groups: Sequence[Group], comparisons: int) -> str:
    """The same comparison where both sides have processed as much; "" where nothing was measured.

    Read off the curves, equal examples are unequal rounds, and the sentence says so. Only uniform
    selection with an enlarged cohort takes the amount of data out at equal rounds.
    """
    pairs = _pairs(groups)
    found = [_extra_work(pairs)]
    if "static" in pairs:
        found.append(_after_equal_examples(*pairs["static"], comparisons))
    found.append(_against_enlarged(groups, pairs, comparisons))
    return " ".join(found[:1] + said) if (said := [text for text in found[1:] if text]) else ""


def _extra_work(pairs: Mapping[str, tuple[Group, Group]]) -> str:
    ratios = []
    for name, pair in pairs.items():
        activity, uniform = (
            float(np.mean([work(run, "examples")[-1] for run in group.runs])) for group in pair
        )
        if uniform:
            ratios.append(f"{activity / uniform:.1f} times ({name})")
    return f"In the same rounds activity processes {' and '.join(ratios)} the examples of uniform."


def _after_equal_examples(activity: Group, uniform: Group, comparisons: int) -> str:
    effect = error_change_at_equal_examples(activity, uniform, comparisons)
    taken = rounds_at_equal_examples(activity, uniform)
    if effect is None or taken is None:
        return ""
    rounds = [len(group.runs[0].rounds) for group in (activity, uniform)]
    return (
        f"After the same number of examples, which took activity {taken[0]:.0f} of its {rounds[0]} "
        f"rounds against {taken[1]:.0f} of {rounds[1]} of uniform, it {_effect(effect)} (static)."
    )


def _against_enlarged(
    groups: Sequence[Group], pairs: Mapping[str, tuple[Group, Group]], comparisons: int
) -> str:
    said = []
    for name, (activity, _) in pairs.items():
        enlarged = next(
            (g for g in groups if g.setting == name and g.variant.startswith("cohort ")), None
        )
        effect = error_change(activity, enlarged, comparisons) if enlarged is not None else None
        if enlarged is not None and effect is not None:
            said.append(
                f"against uniform with {enlarged.variant}, {_expects(enlarged)}, "
                f"it {_effect(effect)} ({name})"
            )
    return f"With the amount of data taken out at equal rounds: {'; '.join(said)}." if said else ""


def _expects(enlarged: Group) -> str:
    run = enlarged.runs[0]
    holders = int((np.asarray(run.devices["activity"]) > 0).sum(axis=1).min())
    if run.config["cohort"] >= holders:
        return "clipped to the devices that hold data in every period and so short of its examples"
    return "which processes as many examples in expectation, averaged over periods"


def _pairs(groups: Sequence[Group]) -> dict[str, tuple[Group, Group]]:
    """Setting to (activity, uniform), both plain and under their own weighting."""
    pairs = {}
    for setting in dict.fromkeys(group.setting for group in groups):
        activity = plain(groups, setting, "activity")
        uniform = plain(groups, setting, "uniform")
        if activity is not None and uniform is not None:
            pairs[setting] = (activity, uniform)
    return pairs


def _direction(effect: Estimate) -> int:
    """-1 where the whole interval is below zero, 1 where above, 0 where it holds zero."""
    if effect.low is None or effect.high is None or effect.low <= 0 <= effect.high:
        return 0
    return -1 if effect.mean < 0 else 1


def _effect(effect: Estimate, after: Estimate | None = None) -> str:
    """What an effect does; the verb is not said again where the one before had the same."""
    direction, signed = _direction(effect), _signed(effect, "%")
    if not direction:
        known = effect.low is not None
        verb = "does not measurably change" if known else "changes"
        size = f"({signed})" if known else f"by {signed}"
    else:
        verb = "lowers" if direction < 0 else "raises"
        ends = sorted(abs(100 * end) for end in (effect.low, effect.high) if end is not None)
        size = f"by {abs(100 * effect.mean):.1f} % [{ends[0]:.1f}, {ends[1]:.1f}]"
    if after is not None and direction and _direction(after) == direction:
        return size
    return f"{verb} the intent error {size}"


def _signed(effect: Estimate, unit: str) -> str:
    mean = f"{100 * effect.mean:+.1f} {unit}"
    if effect.low is None or effect.high is None:
        return mean
    return f"{mean} [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
