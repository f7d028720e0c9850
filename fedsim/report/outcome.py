"""What did the comparison of selection policies come to, in plain sentences?

Every sentence is computed from the runs and reads the same way whichever way they fall. A change
counts only where its interval, corrected for the number of policies, leaves out zero.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fedsim.report.curves import CENTRAL, Group
from fedsim.report.effects import (
    changes,
    error_change,
    error_change_at_equal_examples,
    plain,
)
from fedsim.report.statistics import Estimate, estimate


def caption(groups: Sequence[Group]) -> str:
    """What was run."""
    run = groups[0].runs[0]
    c = run.config
    seeds = sorted({one.config["seed"] for group in groups for one in group.runs})
    local = (
        f"{c['local_steps']} local steps"
        if c.get("local_steps")
        else f"{c['local_epochs']} local epoch{'s' if c['local_epochs'] != 1 else ''}"
    )
    devices = np.asarray(run.devices["activity"]).shape[1]
    text = (
        f"Device selection on {c['corpus']}: {devices:,} devices, {c['rounds']} rounds, expected "
        f"cohort {c['cohort']} ({c['draw']} draws), {c['strategy']}, {c['model']}, {local} of "
        f"{c['optimizer']} at learning rate {_rate(c['learning_rate'])}, batch {c['batch_size']}, "
        f"{_seeds(seeds)}."
    )
    if any(group.setting == "continual" for group in groups):
        text += f" Continual: {c['periods']} periods by {c['by']}, keep {c['keep']}."
    return text


def notes(groups: Sequence[Group], target: float | None, comparisons: int) -> list[str]:
    """The outcome, then what a reader must know to read the numbers."""
    found = [outcome(groups, comparisons)]
    equal = _at_equal_examples(groups, comparisons)
    found += [equal] if equal else []
    corrected = (
        f", corrected for {comparisons} policies compared with uniform (Bonferroni)"
        if comparisons > 1
        else ""
    )
    found.append(
        "Final figures are of the last measured round, on test utterances: mean over seeds ± half "
        "of the 95 % interval (Student t). Error vs uniform: relative change of 1 - intent "
        "accuracy against uniform selection under its own weighting in the same setting (with the "
        "same local steps where these are fixed), paired by seed, with its 95 % "
        f"interval{corrected}; negative is better."
    )
    found.append(
        "At equal examples: the same change after the examples that the cheaper run of the pair "
        "processed; static only, since in the continual setting fewer examples also mean an "
        "earlier period. Light and heavy: intent accuracy on the tenth of people with the "
        "least and the most data. Forgets: best minus present accuracy on past periods."
    )
    if target is not None:
        found.append(
            f"T: {100 * target:.1f} % intent accuracy, 90 % of static uniform selection's "
            "final one; median over seeds of the first measured round at or above it, and the "
            "examples processed by then; > where half the seeds or more did not get there."
        )
    return found + _weighting_notes(groups) + _data_notes(groups)


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
    return text if gap is None or gap.low is None else f"{text} {_verdict(effects, gap)}"


def _verdict(effects: Mapping[str, Estimate], gap: Estimate) -> str:
    """What is left of the claim; `gap` is the change in the continual setting minus the static."""
    direction = _direction(gap)
    if direction:
        text = f"It does {'better' if direction < 0 else 'worse'} in the continual setting"
    else:
        text = "Its effect does not differ measurably between the settings"
    text += f" (difference of the two changes {_signed(gap, 'points')})."
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


def _at_equal_examples(groups: Sequence[Group], comparisons: int) -> str:
    """The same comparison with the amount of data taken out."""
    pairs, said = _pairs(groups), []
    if "static" in pairs:
        effect = error_change_at_equal_examples(*pairs["static"], comparisons)
        if effect is not None:
            said.append(f"read off at equal examples, activity {_effect(effect)} (static)")
    for name, (activity, _) in pairs.items():
        enlarged = next(
            (g for g in groups if g.setting == name and g.variant.startswith("cohort ")), None
        )
        effect = error_change(activity, enlarged, comparisons) if enlarged is not None else None
        if enlarged is not None and effect is not None:
            said.append(
                f"against uniform with {enlarged.variant}, which expects as many examples a round, "
                f"it {_effect(effect)} ({name})"
            )
    if not said:
        return ""
    more = _extra_work(pairs)
    return f"{more}Amount of data taken out: {'; '.join(said)}."


def _extra_work(pairs: dict[str, tuple[Group, Group]]) -> str:
    ratios = []
    for name, pair in pairs.items():
        activity, uniform = (
            float(np.mean([sum(line["cohort_examples"] or 0 for line in r.rounds) for r in g.runs]))
            for g in pair
        )
        if uniform:
            ratios.append(f"{activity / uniform:.1f} times ({name})")
    return (
        f"In the same rounds activity processes {' and '.join(ratios)} the examples of uniform. "
        if ratios
        else ""
    )


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


def _weighting_notes(groups: Sequence[Group]) -> list[str]:
    text = (
        "Weighting: uniform selection goes with weights by examples, proportional selection with "
        "equal ones; other policies divide by their rates (n/q)"
    )
    seen = {(group.selection, group.weighting) for group in groups}
    found = []
    if any(weighting == "inverse-rate" for _, weighting in seen):
        text += ", self-normalised by the weights of the devices that came, so slightly biased"
    if ("activity", "examples") in seen:
        found.append(
            "Activity with weights by examples counts heavy devices twice: it optimises another "
            "objective than the other rows."
        )
    if ("uniform", "equal") in seen:
        found.append(
            "Uniform selection has equal rates, so inverse-rate weighting of it is weighting by "
            "examples: one row stands for both."
        )
    return [f"{text}.", *found]


def _data_notes(groups: Sequence[Group]) -> list[str]:
    found = []
    continual = next((group for group in groups if group.setting == "continual"), None)
    if continual is not None and continual.runs[0].config["by"] == "clock":
        run = continual.runs[0]
        text = "Periods cut the order of collection"
        if run.config["keep"] == "current":
            held = np.asarray(run.devices["activity"]) > 0
            share = float(np.mean(held.sum(axis=0)[held.any(axis=0)] == 1))
            text += f": {100 * share:.0f} % of the people with data fall in a single period"
        found.append(f"{text}.")
    steps = next((group for group in groups if "local step" in group.variant), None)
    if steps is not None:
        found.append(
            f"Rows with {steps.variant} fix the work of every device; examples processed are then "
            "steps times the batch, or times what a device holds where that is less."
        )
    if any(group.selection == CENTRAL for group in groups):
        found.append("Central: the same model trained on all training data at once, no devices.")
    assumptions = groups[0].runs[0].start.get("assumptions") or []
    return found + ([f"Assumptions: {' '.join(assumptions)}"] if assumptions else [])


def _rate(rate: float | None) -> str:
    return "the default" if rate is None else f"{rate:g}"


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"seeds {seeds[0]} to {seeds[-1]}" if whole else f"seeds {', '.join(map(str, seeds))}"
