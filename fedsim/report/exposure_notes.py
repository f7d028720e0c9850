"""What does the leakage experiment come to, and how is its table to be read?

The first sentences are computed from the rows, and read the same way whichever way they fall.
"""

import math
from collections.abc import Sequence

import numpy as np

from fedsim.leakage.success import auc_interval
from fedsim.report.curves import ACCURACY, figure, measured
from fedsim.report.exposure import EXAMPLE, Exposed, by_place, kept, mean_of
from fedsim.report.failures import failure_notes
from fedsim.report.leakage import refutation
from fedsim.report.statistics import Estimate, estimate

GONE, LEFT, OPEN, NOTHING = "gone", "left", "open", "nothing"
"""Most of what leaks without privacy is gone, is left, may be either; or nothing leaks."""

FALLEN = 0.05
"""Intent accuracy lost since the best round from which on a reader is told."""


def caption(rows: Sequence[Exposed]) -> str:
    """What was run."""
    runs = [run for row in rows for run in row.group.runs]
    c, panel = runs[0].config, runs[0].start["probes"]["Leakage"]
    seeds = sorted({run.config["seed"] for run in runs})
    deltas = sorted({line["delta"] for run in runs for line in run.rounds if line["delta"]})
    text = (
        f"Leakage on {c['corpus']}: {np.shape(runs[0].devices['activity'])[1]:,} devices, "
        f"{c['rounds']} rounds, expected cohort {c['cohort']}, {c['strategy']}, {c['model']}, "
        f"{c['local_epochs']} local epochs in batches of {c['batch_size']}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}; a panel of "
        f"{panel['members']:,} utterances"
    )
    text += f"; epsilons at delta {' and '.join(f'{d:g}' for d in deltas)}." if deltas else "."
    if any(row.group.setting == "continual" for row in rows):
        text += f" Continual: {c['periods']} periods by {c['by']}, keep {c['keep']}."
    return text


def notes(rows: Sequence[Exposed]) -> list[str]:
    """Refuted claims, the outcome, then what a reader must know to read the numbers."""
    runs = [run for row in rows for run in row.group.runs]
    found = [(row, refutation(run)) for row in rows for run in row.group.runs]
    assumed = [
        note
        for row in rows
        for run in row.group.runs
        for note in run.start["assumptions"]
        if row.noise is not None
        and note.startswith(
            ("device-level epsilons", "example-level epsilons", "outside the claim")
        )
    ]
    return [
        *(f"CLAIM REFUTED, {_named(row)}: {said}." for row, said in found if said is not None),
        *outcome(rows),
        "AUC: of the primary attack, the loss under the untrained model minus that under the "
        "final one, with its 95 % interval over utterances; 0.5 is guessing. In the continual "
        "setting an utterance counts from its period on, so that early rounds of the figure rest "
        "on a part of the panel. Left of AUC - 0.5: what a row has of it over what training "
        "without privacy has, same utterances and coins; 95 % intervals for all "
        f"{len(by_place(rows))} settings together. An attacker who trains reference models "
        "(fedsim.leakage.reference_attack) may find more.",
        _resolution(rows),
        "Eps claimed: of the worst device, or of its worst example, before an observer of the "
        "models. Eps audited: a lower bound that the attack proves, to be held against the "
        "comparable claim alone. Clipping alone: every example's gradient is clipped as in DP-SGD "
        "and no noise is added, so that it shows what clipping does by itself.",
        *_recorded(rows),
        *_panel_cost(rows),
        *(f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in dict.fromkeys(assumed)),
        *dict.fromkeys(note for run in runs for note in failure_notes(run)),
    ]


def outcome(rows: Sequence[Exposed]) -> list[str]:
    """Whether the loosest epsilon removes most of the leakage, place by place, and what else does.

    Most is gone where the interval of what is left lies under a half, left where it lies above.
    """
    places = by_place(rows)
    found = {own[0].place: verdict(own, len(places)) for own in places}
    said = [", ".join(place) for place, one in found.items() if one == GONE]
    against = [", ".join(place) for place, one in found.items() if one == LEFT]
    silent = [", ".join(place) for place, one in found.items() if one == NOTHING]
    decided = len(found) - len(silent)
    text = "The claim that a loose epsilon already removes most practical leakage: "
    if decided:
        text += (
            f"of {len(found)} settings, {decided} leak measurably without privacy; there the "
            f"loosest DP-SGD removes most of it in {len(said)}{_listed(said)}, leaves most of it "
            f"in {len(against)}{_listed(against)}, and in {decided - len(said) - len(against)} "
            "the panel is too small to tell."
        )
    else:
        text += f"in none of {len(found)} settings is there leakage to remove, so it is not tested."
    return [text, *(_place(own, len(places)) for own in places), *_heavy(rows)]


def loosest(own: Sequence[Exposed]) -> Exposed | None:
    """The row of DP-SGD with the largest finite epsilon."""
    private = [row for row in own if row.privacy == EXAMPLE and math.isfinite(row.epsilon)]
    return max(private, key=lambda row: row.epsilon, default=None)


def verdict(own: Sequence[Exposed], places: int) -> str:
    """One of GONE, LEFT, OPEN and NOTHING, of the loosest row against the one without privacy.

    Args:
      own: rows of one setting and policy, the one without privacy first.
      places: settings and policies that are judged.
    """
    loose = loosest(own)
    share = None if loose is None else kept(own[0], loose, places)
    if share is None:
        return NOTHING
    return GONE if share.high < 0.5 else LEFT if share.low > 0.5 else OPEN


def as_accurate(plain: Exposed, row: Exposed) -> tuple[float, float] | None:
    """Training without privacy, stopped when as accurate as a row is at the end.

    Returns:
      The round and the AUC there, means over seeds; None where it never is or was not attacked.
    """
    stops = []
    for run, other in zip(plain.group.runs, row.group.runs, strict=True):
        target = measured(other, ACCURACY)[1][-1]
        at, values = measured(run, ACCURACY)
        reached = [
            (line["round"], line["mia_auc"])
            for line in (run.rounds[k] for k in at[values >= target])
            if figure(line, "mia_auc") is not None
        ]
        if not reached:
            return None
        stops.append(reached[0])
    round, auc = np.mean(stops, axis=0).tolist()
    return round, auc


def _place(own: Sequence[Exposed], places: int) -> str:
    plain, loose, one = own[0], loosest(own), verdict(own, places)
    text = (
        f"{', '.join(plain.place).capitalize()} selection: without privacy the AUC is "
        f"{_interval(plain.auc())} at {_percent(plain.accuracy)} % intent accuracy{_fallen(plain)}"
    )
    if loose is None:
        return f"{text}."
    text += (
        f"; by DP-SGD at a claimed epsilon of {_number(loose.epsilon)} (sigma {loose.noise:g}) it "
        f"is {_interval(loose.auc())} at {_percent(loose.accuracy)} %"
    )
    if one == NOTHING:
        return f"{text}. Nothing leaks measurably without privacy, so nothing can be removed."
    text += f", which leaves {_share(plain, loose, places)}: {_judged(own, places)}."
    others = [
        f"{row.label} leaves {_share(plain, row, places)} at {_percent(row.accuracy)} %"
        f"{_claiming(row)}"
        for row in own[1:]
        if row is not loose
    ]
    text += f" Of the others {'; '.join(others)}." if others else ""
    stop = as_accurate(plain, loose)
    if stop is not None:
        text += (
            " Training without privacy, stopped when it was as accurate as the judged DP-SGD "
            f"(round {stop[0]:.3g}), has an AUC of {stop[1]:.3f}."
        )
    return text


def _fallen(row: Exposed) -> str:
    """What is said where the last model is much less accurate than an earlier one was."""
    curves = [measured(run, ACCURACY)[1] for run in row.group.runs]
    best, last = np.mean([(max(values), values[-1]) for values in curves], axis=0).tolist()
    if best - last < FALLEN:
        return ""
    return f" ({100 * best:.1f} % at best; what is attacked here is the last model)"


def _judged(own: Sequence[Exposed], places: int) -> str:
    """The verdict in words; where most may be gone or left, whether anything is."""
    one, loose = verdict(own, places), loosest(own)
    if one != OPEN:
        return f"most of the leakage is {one}"
    share = None if loose is None else kept(own[0], loose, places)
    some = share is not None and share.high < 1
    return f"{'some of it is gone, and ' if some else ''}whether most of it is cannot be told"


def _heavy(rows: Sequence[Exposed]) -> list[str]:
    """Whether heavy devices are more exposed than light ones, without privacy."""
    parts, places = [], by_place(rows)
    for own in places:
        heavy, light = (_exposure(own[0], name, len(places)) for name in ("heavy", "light"))
        if heavy is None or light is None:
            continue
        low, high = _difference(heavy, light)
        how = "more" if low > 0 else "less" if high < 0 else "not measurably more or less"
        parts.append(
            f"{how} ({', '.join(own[0].place)}: {heavy.mean:.3f} against {light.mean:.3f}, "
            f"difference {heavy.mean - light.mean:+.3f} [{low:+.3f}, {high:+.3f}])"
        )
    together = f"; 95 % intervals for all {len(parts)} settings together" if parts[1:] else ""
    said = "; ".join(parts)
    return [f"Without privacy heavy devices are exposed {said}{together}."] if parts else []


def _exposure(row: Exposed, name: str, places: int) -> Estimate | None:
    """AUC in an activity group, a mean over seeds; its interval grows with the places compared."""
    ends = []
    for run in row.group.runs:
        value, members, others = (
            figure(run.rounds[-1], f"leakage/{key}_{name}")
            for key in ("auc", "members", "non_members")
        )
        if value is None or members is None or others is None:
            return None
        ends.append((value, *auc_interval(value, int(members), int(others), 1 - 0.05 / places)))
    return mean_of(ends)


def _difference(one: Estimate, other: Estimate) -> tuple[float, float]:
    """Ends of the difference of two independent figures (Zou and Donner 2008)."""
    assert one.low is not None and one.high is not None
    assert other.low is not None and other.high is not None
    gap = one.mean - other.mean
    return (
        gap - math.hypot(one.mean - one.low, other.high - other.mean),
        gap + math.hypot(one.high - one.mean, other.mean - other.low),
    )


def _recorded(rows: Sequence[Exposed]) -> list[str]:
    """What the records say of panels and bounds, with the ways to be private that it is said of."""
    # Without noise nothing is claimed, so rows that clip alone are a way of their own.
    ways = dict.fromkeys(row.way for row in rows)
    said: dict[str, set[str]] = {}
    for row in rows:
        for run in row.group.runs:
            for note in run.start["probes"]["Leakage"]["notes"]:
                said.setdefault(note.rstrip("."), set()).add(row.way)
    return [
        f"{note[:1].upper()}{note[1:]}."
        if len(of) == len(ways)
        else f"{' and '.join(way for way in ways if way in of)}: {note}."
        for note, of in said.items()
    ]


def _panel_cost(rows: Sequence[Exposed]) -> list[str]:
    """What the panel cost in accuracy, where training without privacy was run without one too."""
    pairs = [(row, row.group.finals(ACCURACY), row.whole) for row in rows if row.whole is not None]
    parts = []
    for row, own, whole in pairs:
        full = whole.finals(ACCURACY)
        lost = estimate([own[seed] - full[seed] for seed in own.keys() & full], len(pairs))
        if lost is None:
            continue
        ends = ""
        if lost.low is not None and lost.high is not None:
            ends = f" [{100 * lost.low:+.1f}, {100 * lost.high:+.1f}]"
        parts.append(
            f"{', '.join(row.place)}: {_percent(row.accuracy)} % with the panel, "
            f"{_percent(whole.final(ACCURACY))} % on all data, {100 * lost.mean:+.1f} points{ends}"
        )
    if not parts:
        return []
    once = all(len(own) == 1 for _, own, _ in pairs)
    how = "one seed, so that chance is part of it" if once else "seeds paired"
    return [f"What the panel cost training without privacy ({how}): {'; '.join(parts)}."]


def _resolution(rows: Sequence[Exposed]) -> str:
    """On how many false positives the true positive rate rests."""
    others = [n for row in rows for n in row.last("leakage/non_members") if n is not None]
    few = min(others, default=0)
    coarse = any(flag for row in rows for flag in row.last("leakage/tpr_at_1pct_coarse"))
    text = (
        f"TPR at 1 %: the true positive rate at 1 % false positives, which are {int(0.01 * few)} "
        f"of {few:,} non-members a run"
    )
    return f"{text}: coarse, a step up or down is chance." if coarse else f"{text}."


def _named(row: Exposed) -> str:
    return f"{', '.join(row.place)} selection, {row.label}"


def _claiming(row: Exposed) -> str:
    return f" and a claim of {_number(row.epsilon)}" if math.isfinite(row.epsilon) else ""


def _number(epsilon: float) -> str:
    return f"{epsilon:,.0f}" if epsilon >= 100 else f"{epsilon:.3g}"


def _share(plain: Exposed, row: Exposed, places: int) -> str:
    share = kept(plain, row, places)
    assert share is not None
    return f"{100 * share.share:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}] of AUC - 0.5"


def _listed(names: Sequence[str]) -> str:
    return f" ({'; '.join(names)})" if names else ""


def _interval(auc: Estimate | None) -> str:
    if auc is None:
        return "–"
    return f"{auc.mean:.3f} [{auc.low:.3f}, {auc.high:.3f}]"


def _percent(accuracy: Estimate | None) -> str:
    return "–" if accuracy is None else f"{100 * accuracy.mean:.1f}"
