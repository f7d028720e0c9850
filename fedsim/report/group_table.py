"""How do any runs compare: one row for runs that differ in the seed alone, as a paper prints it.

Means over seeds with 95 % intervals, the best in bold, the change against the first row of the same
corpus and setting with a paired test, and what was claimed and measured of privacy.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedsim.privacy.claim import EVERY_CLAIM
from fedsim.report.curves import ACCURACY, Group
from fedsim.report.effects import changes, error_change
from fedsim.report.failures import failure_notes
from fedsim.report.grouping import options_of
from fedsim.report.leakage import refutation
from fedsim.report.privacy_charts import UNITS, largest
from fedsim.report.statistics import p_value
from fedsim.report.table import Column, Table

_COLUMNS = (
    Column("run", "run", label=True),
    Column("weighting", "weighting"),
    Column("seeds", "seeds", "count"),
    Column("rounds", "rounds", "count"),
    Column(ACCURACY, "intent acc. %", "percent", best="high"),
    Column("slot_f1", "slot F1 %", "percent", best="high"),
    Column("exact_match", "exact match %", "percent", best="high"),
    Column("error_change", "error vs first %", "change"),
    Column("p", "p", "number"),
    Column("epsilon_max", "eps worst device", "number"),
    Column("example_epsilon_max", "eps worst example", "number"),
    Column("mia_auc", "MIA AUC %", "percent"),
    Column("epsilon_audit_low", "eps audited", "number"),
)


def group_table(groups: Sequence[Group]) -> Table:
    """A row a group; columns that no row measured are left out.

    Args:
      groups: one or more, as of `fedsim.report.grouping.grouped`.
    """
    firsts = [_first(groups, group) for group in groups]
    rows = []
    for group, first in zip(groups, firsts, strict=True):
        family = sum(other is first for other in firsts) - 1
        rows.append(_row(group, first, max(1, family)))
    shown = [c for c in _COLUMNS if any(row.get(c.key) not in (None, "") for row in rows)]
    if _several(groups):
        shown = [replace(column, best="") for column in shown]
    return Table(
        columns=shown,
        rows=rows,
        caption=_caption(groups),
        notes=_notes(groups, {column.key for column in shown}),
    )


def _first(groups: Sequence[Group], group: Group) -> Group:
    """The first row of the same corpus and setting."""
    own = _corpus(group)
    return next(g for g in groups if (g.setting, _corpus(g)) == (group.setting, own))


def _several(groups: Sequence[Group]) -> bool:
    """Whether rows are about different data."""
    return len({_corpus(group) for group in groups}) > 1


def _corpus(group: Group) -> str:
    return str(group.runs[0].start.get("fingerprint"))


def _row(group: Group, first: Group, comparisons: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": group.label,
        "weighting": group.weighting,
        "seeds": len(group.runs),
        "rounds": max(len(run.rounds) for run in group.runs),
        **{key: group.final(key) for key in (ACCURACY, "slot_f1", "exact_match", "mia_auc")},
        **{key: _spent(group, key) for _, key in UNITS},
    }
    bound = largest(group, "epsilon_audit_low", "")
    row["epsilon_audit_low"] = None if bound is None else float(bound.y[-1])
    if group is not first:
        row["error_change"] = error_change(group, first, comparisons)
        row["p"] = p_value(list(changes(group, first).values()), comparisons)
    return row


def _spent(group: Group, key: str) -> float | None:
    """What the worst of any seed has spent; None where nothing is claimed."""
    spent = [run.rounds[-1].get(key) for run in group.runs]
    known = [np.inf if value is None else float(value) for value in spent]
    return max(known) if np.isfinite(max(known)) else None


def _caption(groups: Sequence[Group]) -> str:
    run = groups[0].runs[0]
    seeds = {one.config["seed"] for group in groups for one in group.runs}
    starts = [group.runs[0].start for group in groups]
    names = dict.fromkeys(start["population"] for start in starts)
    sizes = dict.fromkeys(f"{start['test_examples']:,}" for start in starts)
    options = options_of(run)
    model = f", {options['model']}" if "model" in options else ""
    count = len(seeds)
    return (
        f"Runs on {', '.join(names)}{model}, {count} seed{'s' if count != 1 else ''}; figures on "
        f"{' or '.join(sizes)} test utterances, of the last measured round."
    )


def _notes(groups: Sequence[Group], shown: set[str]) -> list[str]:
    several = any(len(group.runs) > 1 for group in groups)
    spread = " ± half of the 95 % interval (Student t)" if several else ""
    found = [f"Means over seeds{spread}." if several else "One seed says nothing about chance."]
    if _several(groups):
        found.append(
            "Rows on different data are about different people and test utterances: what differs "
            "between them is no effect of an option, and no best row is marked."
        )
    elif len(groups) > 1:
        found.append("In bold: the best mean of its column, whether or not it differs by chance.")
    if "error_change" in shown:
        found.append(_test(groups, "p" in shown))
    if shown & {key for _, key in UNITS}:
        found += [
            "Epsilons are upper bounds before an observer of the released models, of the worst "
            "device or example and the worst seed, at the delta of each run; – where nothing is "
            "claimed.",
            *(f"{text[:1].upper()}{text[1:]}." for text in EVERY_CLAIM),
        ]
    if "epsilon_audit_low" in shown:
        found.append(
            "MIA AUC: of membership inference against the released model, 50 is guessing. Eps "
            "audited: the lower bound that an audit shows with 95 % confidence in a single run, "
            "the largest of the seeds; a low one confirms nothing."
        )
    for group in groups:
        for run in group.runs:
            where = f"{group.label}, seed {run.config['seed']}"
            refuted = refutation(run)
            found += [f"CLAIM REFUTED ({where}): {refuted}."] if refuted else []
            found += [f"{where}: {text}." for text in failure_notes(run)]
    return found


def _test(groups: Sequence[Group], tested: bool) -> str:
    firsts = dict.fromkeys(_first(groups, group).label for group in groups)
    text = (
        "Error vs first: relative change of 1 - intent accuracy against the first row of the same "
        f"corpus and setting ({'; '.join(firsts)}), paired by seed; negative is better."
    )
    if tested:
        text += (
            " p: two-sided paired t test of these changes over seeds; intervals and p are "
            "corrected for the rows compared with the same one (Bonferroni)."
        )
    return text
