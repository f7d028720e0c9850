"""What should a practitioner do about the price of activity, and how is the table to be read?

The first three sentences are computed from the rows and read the same way whichever way they fall:
what active devices pay at equal noise, what a policy buys at equal epsilon, and what follows.
"""

from collections.abc import Sequence

import numpy as np

from fedsim.report.curves import ACCURACY
from fedsim.report.failures import failure_notes
from fedsim.report.price import Priced
from fedsim.report.price_examples import PricedExamples, example_notes
from fedsim.report.statistics import Estimate, estimate

PUBLIC = "public scale"
"""Variant of rows whose neighbours differ in a whole device."""


def caption(rows: Sequence[Priced]) -> str:
    """What was run."""
    run = rows[0].group.runs[0]
    c, privacy = run.config, _private(rows)[0].group.runs[0].start["privacy"]
    seeds = sorted({one.config["seed"] for row in rows for one in row.group.runs})
    local = f"{c['local_steps']} local steps" if c["local_steps"] else f"{c['local_epochs']} epochs"
    text = (
        f"The price of activity on {c['corpus']}: {np.shape(run.devices['activity'])[1]:,} "
        f"devices, {c['rounds']} rounds, expected cohort {c['cohort']}, {c['strategy']}, "
        f"{c['model']}, {local} on each device, clip norm {privacy['clip_norm']:g}, "
        f"device-level epsilons at delta {privacy['delta']:g}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}."
    )
    if any(row.group.setting == "continual" for row in rows):
        text += f" Continual: {c['periods']} periods by {c['by']}, keep {c['keep']}."
    return text


def notes(rows: Sequence[Priced], examples: Sequence[PricedExamples] = ()) -> list[str]:
    """What to do, in three sentences, then what a reader must know to read the numbers."""
    settings = list(dict.fromkeys(row.group.setting for row in rows))
    first = settings[0]
    advised = [_price(rows, first), _bought(rows, settings), _advice(rows, settings)]
    runs = [run for row in rows for run in row.group.runs]
    lossy = list(dict.fromkeys(note for run in runs for note in failure_notes(run)))
    return [
        *(text for text in advised if text),
        *_cost_of_privacy(rows, first),
        _spread(rows),
        *example_notes(examples),
        "Equal noise: sigma is such that the noise per coordinate of the mean update, in units of "
        "the clip norm (effective noise, root mean square over rounds), is that of uniform "
        "selection with equal weights. Equal epsilon: sigma is such that the device that pays most "
        "ends at uniform selection's epsilon.",
        "Worst holds: examples of the device that pays most, a mean over periods; – where all pay "
        "the same. Heaviest and lightest: the device with the most and with the least data. "
        "Median: an upper bound of the upper median over all devices, put into order by their "
        "Renyi bounds. All before an observer of the models; who came seen: the worst epsilon "
        "before one who also sees the cohorts, the largest of the seeds. The server sees raw "
        "updates: infinite.",
        *_cures(rows, first),
        *_assumptions(rows),
        *lossy,
    ]


def _price(rows: Sequence[Priced], setting: str) -> str:
    uniform, active = _uniform(rows, setting), _found(rows, setting, "activity", "noise")
    if uniform is None or active is None:
        return ""
    middle, held = active.row()["epsilon_median"], active.worst_activity
    who = "" if held is None else f", which holds {held:.3g} examples,"
    return (
        f"At equal noise ({setting}) drawing in proportion to activity costs the device that pays "
        f"most{who} an epsilon of "
        f"{active.epsilon:.3g}, {active.epsilon / uniform.epsilon:.1f} times uniform selection's "
        f"{uniform.epsilon:.3g}, and the median device at most {middle:.3g}."
    )


def _bought(rows: Sequence[Priced], settings: Sequence[str]) -> str:
    parts = []
    for setting in settings:
        uniform, best = _uniform(rows, setting), _best(rows, setting)
        active = _found(rows, setting, "activity", "epsilon")
        if uniform is None or best is None or active is None:
            continue
        against = "" if best is uniform else f" against uniform's {_percent(uniform.accuracy)} %"
        mean = " on average" if len(best.group.runs) > 1 else ""
        parts.append(
            f"{_named(best)} is the most accurate{mean} with {_percent(best.accuracy)} %{against}, "
            f"and activity-based selection with equal weights "
            f"needs {active.effective_noise / uniform.effective_noise:.1f} times the noise and "
            f"reaches {_percent(active.accuracy)} % ({setting})"
        )
    if not parts:
        return ""
    level = _uniform(rows, settings[0])
    assert level is not None
    return f"At an epsilon of {level.epsilon:.3g} for the worst device {'; '.join(parts)}."


def _advice(rows: Sequence[Priced], settings: Sequence[str]) -> str:
    """Draw otherwise than uniformly only where that is measurably better at equal epsilon."""
    setting = settings[0]
    uniform = _uniform(rows, setting)
    if uniform is None or _best(rows, setting) is None:
        return ""
    found = {each: _verdict(rows, each) for each in settings}
    verdicts = {each: verdict for each, verdict in found.items() if verdict is not None}
    if len(set(verdicts.values())) == 1:
        text = f"So {': '.join(verdicts[setting])}"
    elif len({what for what, _ in verdicts.values()}) == 1:
        reasons = "; ".join(f"{why} ({each})" for each, (_, why) in verdicts.items())
        text = f"So {verdicts[setting][0]}: {reasons}"
    else:
        text = "So " + "; ".join(f"{': '.join(both)} ({each})" for each, both in verdicts.items())
    active = _found(rows, setting, "activity", "epsilon")
    mild = min(_favouring(rows, setting), key=lambda row: row.effective_noise, default=None)
    if mild is not None and active is not None and mild.effective_noise < active.effective_noise:
        text += (
            f"; where active devices must come more often, {_named(mild)} takes the least noise, "
            f"{mild.effective_noise / uniform.effective_noise:.1f} times uniform selection's "
            f"instead of {active.effective_noise / uniform.effective_noise:.1f} times"
        )
    text += "; and report the worst device's epsilon"
    loose = _found(rows, setting, "activity", "noise")
    if loose is not None and loose.epsilon > uniform.epsilon:
        text += (
            f", since what the average rate would cost is {loose.epsilon / uniform.epsilon:.1f} "
            "times too low under selection by activity"
        )
    return f"{text}."


def _verdict(rows: Sequence[Priced], setting: str) -> tuple[str, str] | None:
    """Whom to draw in a setting, and why."""
    uniform, best = _uniform(rows, setting), _best(rows, setting)
    if uniform is None or best is None:
        return None
    gain = _gain(best, uniform, len(_at_equal_epsilon(rows, setting)) - 1)
    if best is not uniform and gain is not None and gain.low is not None and gain.low > 0:
        return (
            f"draw by {_named(best)}",
            f"{_points(gain)} points more accurate at the same epsilon for the worst device",
        )
    if best is uniform:
        why = "nothing measured is more accurate at the same epsilon for the worst"
    elif gain is None or gain.low is None:
        why = "a single seed shows no policy to be more accurate at the same epsilon"
    else:
        why = (
            "nothing is measurably more accurate at the same epsilon for the worst "
            f"({_named(best)}: {_points(gain)} points)"
        )
    return "draw uniformly with equal weights where privacy is claimed for every device", why


def _points(gain: Estimate) -> str:
    """A difference of accuracies with its interval, in points."""
    assert gain.low is not None and gain.high is not None
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def _favouring(rows: Sequence[Priced], setting: str) -> list[Priced]:
    """Rows at equal epsilon that draw active devices more often, with equal weights."""
    return [
        row
        for row in _at_equal_epsilon(rows, setting)
        if row.group.selection not in ("uniform", "budgets") and row.group.weighting == "equal"
    ]


def _cures(rows: Sequence[Priced], setting: str) -> list[str]:
    """How the rows with a cure or given budgets came about, where there are any."""
    variants = {
        row.group.variant: row.group.runs[0].config
        for row in rows
        if row.group.setting == setting and row.group.variant
    }
    found = []
    if "retirement" in variants:
        found.append(
            "Retirement: the run starts with the noise that uniform selection has; a device sits "
            "out every round that would take it above the epsilon, by scheduled rates, and what "
            "noise the fewer devices left make is in the effective noise."
        )
    if PUBLIC in variants:
        found.append(
            f"Public scale (add/remove neighbours): the scale, {variants[PUBLIC]['scale']:g}, was "
            "read off this corpus, which a deployment may not do; it stands for what somebody "
            "would choose who knows such populations. Weight bound 1 and denominator "
            f"{variants[PUBLIC]['denominator']:g}."
        )
    given = {name: c["budgets"] for name, c in variants.items() if c.get("budgets")}
    if given:
        listed = "; ".join(f"{name} {text}" for name, text in given.items())
        found.append(
            f"Budgets ({listed}; epsilon:share of devices, or a range spread over the devices) are "
            "dealt at random; rates follow from them and from the noise at which they sum to the "
            "cohort (after Boenisch et al. 2023 and Lange et al. 2025)."
        )
    return found


def _cost_of_privacy(rows: Sequence[Priced], setting: str) -> list[str]:
    """How far the private rows are from a model without privacy, and from none at all."""
    open_row = next((r for r in rows if r.group.setting == setting and r.held == "none"), None)
    uniform = _uniform(rows, setting)
    if open_row is None or uniform is None or open_row.accuracy is None or uniform.accuracy is None:
        return []
    untrained = uniform.group.runs[0].start["untrained"]["intent_accuracy"]
    return [
        f"The same rounds without privacy end at {_percent(open_row.accuracy)} % intent accuracy, "
        f"with it at {_percent(uniform.accuracy)} % (uniform selection, {setting}); the untrained "
        f"model has {100 * untrained:.1f} %."
    ]


def _spread(rows: Sequence[Priced]) -> str:
    """What the accuracies say about chance."""
    if all(len(row.group.runs) == 1 for row in rows):
        return "Accuracies are of one seed, which says nothing about chance."
    return (
        "Accuracies are means over seeds ± half of the 95 % interval (Student t). Seeds vary the "
        "initial model, the cohorts, the batches and the noise, but neither the people nor the "
        "test set. Differences in brackets are paired by seed; their intervals are corrected for "
        "the rows compared within a setting (Bonferroni)."
    )


def _assumptions(rows: Sequence[Priced]) -> list[str]:
    """What the claims hold under, in the words of the records, each once."""
    found = [
        f"{note}."
        for row in _private(rows)
        for note in row.group.runs[0].start["assumptions"]
        if note.startswith(("device-level epsilons", "outside the claim"))
    ]
    capped = [
        f"{row.group.setting}, {row.group.label}: {note}."
        for row in rows
        for note in row.group.runs[0].start["assumptions"]
        if "no rate may exceed" in note and row.held in ("both", "epsilon")
    ]
    return list(dict.fromkeys([*found, *capped]))


def _private(rows: Sequence[Priced]) -> list[Priced]:
    return [row for row in rows if row.held != "none"]


def _uniform(rows: Sequence[Priced], setting: str) -> Priced | None:
    return _found(rows, setting, "uniform", "both")


def _found(rows: Sequence[Priced], setting: str, selection: str, held: str) -> Priced | None:
    """A policy with equal weights, as it is."""
    wanted = (setting, selection, "equal", "", held)
    for row in rows:
        g = row.group
        if (g.setting, g.selection, g.weighting, g.variant, row.held) == wanted:
            return row
    return None


def _best(rows: Sequence[Priced], setting: str) -> Priced | None:
    """The most accurate row at equal epsilon, neighbours being the same."""
    equal = _at_equal_epsilon(rows, setting)
    return max(equal, key=lambda row: row.accuracy.mean, default=None)  # type: ignore[union-attr]


def _at_equal_epsilon(rows: Sequence[Priced], setting: str) -> list[Priced]:
    found = [r for r in rows if r.group.setting == setting and r.held in ("both", "epsilon")]
    return [row for row in found if row.accuracy is not None and row.group.variant != PUBLIC]


def _gain(row: Priced, against: Priced, comparisons: int) -> Estimate | None:
    """Difference of accuracies, paired by seed; the best of so many rows is looked at."""
    own, other = row.group.finals(ACCURACY), against.group.finals(ACCURACY)
    differences = [own[seed] - other[seed] for seed in own if seed in other]
    return estimate(differences, max(1, comparisons))


def _named(row: Priced) -> str:
    return f"{row.group.label} selection with {row.group.weighting} weights"


def _percent(accuracy: Estimate | None) -> str:
    if accuracy is None:
        return "–"
    if accuracy.low is None or accuracy.high is None:
        return f"{100 * accuracy.mean:.1f}"
    return f"{100 * accuracy.mean:.1f} ± {50 * (accuracy.high - accuracy.low):.1f}"
