"""What must a reader know to read a comparison of selection policies rightly?

What was run, how each column is computed, and where a number says less than it seems to. Every
sentence is there only where the runs call for it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsim.report.curves import CENTRAL, Group
from fedsim.report.failures import failure_notes
from fedsim.report.outcome import at_equal_examples, outcome

FEWEST = 30
"""Test utterances below which the accuracy of a decile is not shown: it would be noise."""

_RATES = {"bilstm": 1.0, "transformer": 0.1}
"""Default SGD rate by model, for records that were written before the rate was resolved in them."""

_CENTRAL = {"optimizer": "AdamW", "learning_rate": 0.002, "batch_size": 32}
"""How central training went in records that do not say it themselves."""


def caption(groups: Sequence[Group]) -> str:
    """What was run."""
    run = groups[0].runs[0]
    c = run.config
    seeds = sorted({one.config["seed"] for group in groups for one in group.runs})
    devices = np.asarray(run.devices["activity"]).shape[1]
    local = _counted(c["local_steps"], "local step") or _counted(c["local_epochs"], "local epoch")
    text = (
        f"Device selection on {c['corpus']}: {devices:,} devices, {c['rounds']} rounds, expected "
        f"cohort {c['cohort']} ({c['draw']} draws), {c['strategy']}, {c['model']}, {local} of "
        f"{c['optimizer']} at learning rate {_rate(c):g}, batch {c['batch_size']}, "
        f"{_seeds(seeds)}."
    )
    if any(group.setting == "continual" for group in groups):
        text += f" Continual: {c['periods']} periods by {c['by']}, keep {c['keep']}."
    return text


def notes(groups: Sequence[Group], target: float | None, comparisons: int) -> list[str]:
    """The outcome, then what a reader must know to read the numbers.

    Args:
      groups: the rows.
      target: accuracy of the columns "to T", a fraction, or None.
      comparisons: policies compared with uniform selection.
    """
    found = [
        outcome(groups, comparisons),
        at_equal_examples(groups, comparisons),
        *_column_notes(groups, target, comparisons),
        *_weighting_notes(groups),
        *_cohort_notes(groups),
        *_data_notes(groups),
        _central_note(groups),
        _assumptions(groups),
        *_faults(groups),
        _commits(groups),
    ]
    return [text for text in found if text]


def utterances(groups: Sequence[Group], decile: int) -> int | None:
    """Test utterances of a decile of the people, 1 (lightest) .. 10; None in older records."""
    found = (group.final(f"deciles/utterances_{decile}") for group in groups)
    return next((round(count.mean) for count in found if count is not None), None)


def _column_notes(groups: Sequence[Group], target: float | None, comparisons: int) -> list[str]:
    corrected = (
        f", corrected for the {comparisons} policies compared within a column and setting "
        "(Bonferroni)"
        if comparisons > 1
        else ""
    )
    several = any(len(group.runs) > 1 for group in groups)
    spread = " ± half of the 95 % interval (Student t)" if several else ""
    found = [
        "Final figures are of the last measured round, on test utterances: mean over seeds"
        f"{spread}. Seeds vary the initial model, the cohorts and the "
        "batches, but neither the people nor the test set, so intervals do not cover other people.",
        "Error vs uniform: relative change of 1 - intent accuracy against uniform selection under "
        "its own weighting in the same setting (with the same local steps where these are fixed), "
        f"paired by seed, with its 95 % interval{corrected}; negative is better.",
        "Examples processed are those that the drawn devices' optimizers were served, repeats "
        "counted. At equal examples: the change of error after the examples that the cheaper run "
        "of the pair processed in all, when the other has had only part of its rounds and of its "
        "server updates. Static only, since in the continual setting fewer examples also mean an "
        "earlier period.",
        "Light and heavy: intent accuracy on the tenth of people with the least and the most "
        f"data{_decile_counts(groups)}.",
    ]
    if any(group.setting == "continual" for group in groups):
        found.append(
            "Forgets: best minus present intent accuracy on the test utterances of past periods; "
            "never negative by definition, and biased upward by the noise of the measurements, "
            "since the best of several is taken."
        )
    if target is not None:
        found.append(
            f"T: {100 * target:.1f} % intent accuracy, 90 % of static uniform selection's "
            "final one; median over seeds of the first measured round at or above it, and the "
            "examples processed by then; > where half the seeds or more did not get there."
        )
    return found


def _decile_counts(groups: Sequence[Group]) -> str:
    light, heavy = utterances(groups, 1), utterances(groups, 10)
    if light is None or heavy is None:
        return ""
    text = f" ({light:,} and {heavy:,} test utterances"
    return text + (f"; – below {FEWEST})" if min(light, heavy) < FEWEST else ")")


def _weighting_notes(groups: Sequence[Group]) -> list[str]:
    seen = {(group.selection, group.weighting) for group in groups}
    found = [
        "Weighting: by default uniform selection goes with weights by examples (n), proportional "
        "selection with equal ones, and the other policies divide by their rates (n/q). Every row "
        "divides by the sum of the weights of the devices that came (self-normalised), so its "
        "update is a ratio of two random sums and in general biased."
    ]
    if ("activity", "examples") in seen:
        found.append(
            "Activity with weights by examples counts heavy devices twice: it optimises another "
            "objective than the other rows."
        )
    if {("activity", "equal"), ("activity", "inverse-rate")} <= seen:
        found.append(
            "Where no rate is at its cap, n/q is the same for every device under proportional "
            "selection: inverse-rate weighting of activity is then equal weighting."
        )
    if ("uniform", "equal") in seen:
        found.append(
            "Uniform selection has equal rates, so inverse-rate weighting of it is weighting by "
            "examples: one row stands for both."
        )
    if any(selection == "top" for selection, _ in seen):
        found.append(
            "Top always draws the same most active devices of a period and never hears the "
            "others; no weighting makes up for devices whose rate is 0."
        )
    return found


def _cohort_notes(groups: Sequence[Group]) -> list[str]:
    """Rows whose rates sum to less than the cohort they ask for."""
    short = []
    for group in groups:
        rates = np.asarray(group.runs[0].cohorts["rates"])
        if group.selection == CENTRAL or rates.ndim != 2:
            continue
        sums, cohort = rates.sum(axis=1), group.runs[0].config["cohort"]
        if sums.min() < cohort - 0.05:
            low, high = (f"{end:.1f}" for end in (sums.min(), sums.max()))
            between = low if low == high else f"{low} to {high}"
            short.append(f"{group.label} ({group.setting}) {between} of {cohort}")
    if not short:
        return []
    return [
        "Expected devices a round, where caps or a lack of devices with data hold the rates below "
        f"the cohort: {'; '.join(dict.fromkeys(short))}."
    ]


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
            f"Rows with {steps.variant} give every device the same number of batches; a device "
            "with less data than that goes over it again, and its batches are as short as its data."
        )
    return found


def _central_note(groups: Sequence[Group]) -> str:
    central = next((group for group in groups if group.selection == CENTRAL), None)
    if central is None:
        return ""
    config = central.runs[0].config
    how = {**_CENTRAL, **config.get("central", {})}
    return (
        "Central: the same model trained on all devices' training data at once by "
        f"{how['optimizer']} (rate {how['learning_rate']:g}, batches of {how['batch_size']}) for "
        f"{config['rounds']} epochs; figures are of the last epoch."
    )


def _assumptions(groups: Sequence[Group]) -> str:
    """What the data did not say, from every run, each sentence once."""
    said = dict.fromkeys(
        _sentence(text)
        for group in groups
        for run in group.runs
        for text in run.start.get("assumptions") or []
    )
    return f"Assumptions: {' '.join(said)}" if said else ""


def _faults(groups: Sequence[Group]) -> list[str]:
    """Failed devices of every run that had any."""
    return [
        f"{group.label} ({group.setting}), seed {run.config['seed']}: {text}."
        for group in groups
        for run in group.runs
        for text in failure_notes(run)
    ]


def _commits(groups: Sequence[Group]) -> str:
    runs = {id(run): run for group in groups for run in group.runs}.values()
    commits = Counter(run.config.get("environment", {}).get("commit") for run in runs)
    if len(commits) < 2:
        return ""
    said = ", ".join(
        f"{commit[:10] if commit else 'an unknown one'} ({_counted(count, 'run')})"
        for commit, count in commits.items()
    )
    return f"Runs come from different commits of the code: {said}."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _counted(count: int | None, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}" if count else ""


def _rate(config: dict[str, Any]) -> float:
    """The learning rate of the devices, as it was used."""
    client = config.get("simulation", {}).get("client", {})
    rate = client.get("learning_rate", config["learning_rate"])
    if rate is not None:
        return rate
    return _RATES[config["model"]] if config["optimizer"] == "sgd" else 0.001


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"seeds {seeds[0]} to {seeds[-1]}" if whole else f"seeds {', '.join(map(str, seeds))}"
