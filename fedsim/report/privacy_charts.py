"""What did privacy cost, for whom, and what leaked: the charts of ledgers and attacks.

Epsilons of several seeds are shown by their largest: a claim holds in every run. Infinite ones,
where nothing is claimed, are not drawn.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.leakage.attacks import by_loss, by_reference
from fedsim.leakage.panel import Panel
from fedsim.leakage.success import roc
from fedsim.report.charts import Chart, Level, Series
from fedsim.report.curves import ACCURACY, Group, curve
from fedsim.report.learning_charts import looks, over_rounds

if TYPE_CHECKING:
    from fedsim.record import Run

UNITS = (("device", "epsilon_max"), ("example", "example_epsilon_max"))
"""What is protected, and the figure that says what the worst of them has spent."""

_OF_ONE = {
    "device": (
        ("epsilon_max", "worst device"),
        ("privacy/epsilon_heavy", "heavy"),
        ("privacy/epsilon_middling", "median"),
        ("privacy/epsilon_light", "light"),
        ("epsilon_participation_max", "worst, cohorts seen"),
    ),
    "example": (("example_epsilon_max", "worst"), ("example_epsilon_median", "median device")),
}
"""Curves of a single group's epsilons."""

_BOUNDS = {"device": "epsilon_bound", "example": "example_epsilon_bound"}

BINS = 24

_LARGEST = "Of several seeds, the largest."


def privacy_charts(groups: Sequence[Group]) -> list[Chart]:
    """Epsilon over rounds and over devices; leakage over rounds, beside epsilon, and ROC curves."""
    found = [
        *_epsilons(groups),
        *_histograms(groups),
        _over_activity(groups),
        _attack(groups),
        _audit(groups),
        *_beside(groups),
        _roc(groups),
    ]
    return [chart for chart in found if chart is not None and chart.series]


def largest(group: Group, key: str, label: str, look: str | int | None = None) -> Series | None:
    """The largest finite value over seeds of every measured round; None where none is finite."""
    found: dict[float, float] = {}
    for run in group.runs:
        for at, value in zip(*curve(run, key, "rounds"), strict=True):
            if np.isfinite(value):
                found[float(at)] = max(float(value), found.get(float(at), -np.inf))
    if not found:
        return None
    x = np.array(sorted(found))
    return Series(label=label, x=x, y=np.array([found[at] for at in x]), look=look)


def attack_scores(run: "Run") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of the attacks on the model of the last audited round, with the truth.

    Args:
      run: one whose record has panel.npz and scores.npz; of others nothing is returned.

    Returns:
      Attack -> (scores (m,), member (m,) bool) of the panel's members whose period had come.
    """
    scores, panel = run.arrays("scores"), run.arrays("panel")
    if not panel or "untrained" not in scores or not len(scores["rounds"]):
        return {}
    members = Panel(
        unit="device" if str(panel["unit"]) == "device" else "example",
        **{name: array for name, array in panel.items() if name != "unit"},
    )
    last, losses = int(scores["rounds"][-1]), scores["losses"][-1]
    (period,) = (line["period"] for line in run.rounds if line["round"] == last)
    counted = scores["period"] < period
    rows = {
        "loss against the untrained model": by_reference(losses, scores["untrained"]),
        "loss": by_loss(losses),
    }
    found = {}
    for name, values in rows.items():
        each = members.per_member(values, counted)
        there = np.isfinite(each)
        if members.included[there].any() and not members.included[there].all():
            found[name] = (each[there], members.included[there])
    return found


def _epsilons(groups: Sequence[Group]) -> Iterator[Chart]:
    for unit, key in UNITS:
        if len(groups) == 1:
            named = _OF_ONE[unit]
            series = [largest(groups[0], each, label) for each, label in named]
        else:
            pairs = zip(groups, looks(groups), strict=True)
            series = [largest(group, key, group.label, look) for group, look in pairs]
        text = f"Upper bounds at {unit} level, before an observer of the released models"
        if unit == "device" and len(groups) == 1:
            text += "; heavy, median and light are the devices of most, middling and least activity"
        yield Chart(
            name=f"epsilon-{unit}",
            title=f"Epsilon over rounds, {unit} level",
            text=f"{text}. {_LARGEST if any(len(g.runs) > 1 for g in groups) else ''}".strip(),
            x="round",
            y="epsilon",
            series=[one for one in series if one is not None],
        )


def _histograms(groups: Sequence[Group]) -> Iterator[Chart]:
    for unit, name in _BOUNDS.items():
        bounds = [np.asarray(_spent(group).get(name, ())) for group in groups]
        finite = [each[np.isfinite(each)] for each in bounds]
        if not any(map(len, finite)):
            continue
        top = max(float(each.max()) for each in finite if len(each))
        edges = np.linspace(0, top * (1 + 1e-9) if top > 0 else 1.0, BINS + 1)
        yield Chart(
            name=f"epsilon-{unit}-histogram",
            title=f"Epsilon over devices, {unit} level",
            text="How many devices have an upper bound on epsilon in each interval, at the end of "
            "the run (of the first seed). These bounds come from Renyi accounting and lie a "
            "little above the exact figures elsewhere.",
            x="bound on epsilon",
            y="devices",
            kind="steps",
            series=[
                Series(
                    label=group.label,
                    x=edges,
                    y=np.append(np.histogram(each, edges)[0], 0).astype(float),
                    look=look,
                )
                for group, look, each in zip(groups, looks(groups), finite, strict=True)
                if len(each)
            ],
        )


def _spent(group: Group) -> dict[str, np.ndarray]:
    """What the devices of a group's first run spent; nothing where all claim the same budget."""
    ledger = group.runs[0].arrays("ledger")
    return {} if "budget_spent" in ledger else dict(ledger)


def _over_activity(groups: Sequence[Group]) -> Chart:
    series = []
    for group, look in zip(groups, looks(groups), strict=True):
        run, ledger = group.runs[0], _spent(group)
        if "epsilon" in ledger and np.isfinite(ledger["epsilon"]).any():
            held = np.asarray(run.devices["activity"]).sum(axis=0)[ledger["devices"]]
            series.append(
                Series(label=group.label, x=held, y=np.asarray(ledger["epsilon"]), look=look)
            )
    return Chart(
        name="epsilon-over-activity",
        title="Who pays: epsilon over activity",
        text="Exact epsilons of devices spread over activity (all periods), at the end of the run "
        "(of the first seed).",
        x="training examples on the device",
        y="epsilon",
        kind="points",
        log="x",
        series=series,
    )


def _attack(groups: Sequence[Group]) -> Chart:
    series = []
    for group, look in zip(groups, looks(groups), strict=True):
        label = group.label if len(groups) > 1 else "against the untrained model"
        found = over_rounds(group, "mia_auc", label)
        if found is None:
            continue
        low, high = found.low, found.high
        if len(group.runs) == 1:
            low, high = (curve(group.runs[0], f"mia_auc_{e}", "rounds")[1] for e in ("low", "high"))
        series.append(Series(label=label, x=found.x, y=found.y, low=low, high=high, look=look))
    if len(groups) == 1:
        others = (("loss", "plain loss"), ("earlier", "against an earlier model"))
        more = [over_rounds(groups[0], f"leakage/auc_by_{k}", label) for k, label in others]
        series += [one for one in more if one is not None]
    return Chart(
        name="leakage",
        title="Membership inference over rounds",
        text="AUC of attacks that tell utterances trained on from others by the released model's "
        "loss; 0.5 is guessing. Bands are 95 % intervals, of a single run those of its panel.",
        x="round",
        y="AUC",
        series=series,
        levels=[Level(label="guessing", y=0.5)] if series else [],
        zero=False,
        most=1,
    )


def _audit(groups: Sequence[Group]) -> Chart | None:
    if len(groups) > 1:
        return None
    named = (
        ("epsilon_claim_at_delta_audit", "claimed"),
        ("epsilon_audit_low", "at least, by the audit"),
    )
    found = [largest(groups[0], key, label) for key, label in named]
    return Chart(
        name="audit",
        title="Leakage beside the claim",
        text="The lower bound on epsilon that the audit shows with 95 % confidence, and what is "
        "claimed of the same devices at the audit's own delta. A bound above its claim would show "
        "that a mechanism or its accounting is broken; a low one confirms nothing.",
        x="round",
        y="epsilon",
        series=[one for one in found if one is not None],
    )


def _beside(groups: Sequence[Group]) -> Iterator[Chart]:
    if len(groups) == 1:
        return
    for unit, key in UNITS:
        for figure, name, axis in (
            ("mia_auc", "Leakage", "membership inference AUC"),
            (ACCURACY, "Accuracy", "intent accuracy"),
        ):
            yield Chart(
                name=f"{name.lower()}-beside-epsilon-{unit}",
                title=f"{name} beside epsilon, {unit} level",
                text="Final figures against what the worst has spent. Horizontal lines are runs "
                f"that claim nothing at {unit} level.",
                x="epsilon of the worst",
                y=axis,
                kind="points",
                series=list(_points(groups, key, figure)),
                levels=list(_unclaimed(groups, key, figure)),
                zero=figure == ACCURACY,
                most=1,
            )


def _points(groups: Sequence[Group], key: str, figure: str) -> Iterator[Series]:
    for group, look in zip(groups, looks(groups), strict=True):
        spent, final = largest(group, key, group.label), group.final(figure)
        if spent is not None and final is not None:
            known = final.low is not None
            yield Series(
                label=group.label,
                x=spent.y[-1:],
                y=np.array([final.mean]),
                low=np.array([final.low], float) if known else None,
                high=np.array([final.high], float) if known else None,
                look=look,
            )


def _unclaimed(groups: Sequence[Group], key: str, figure: str) -> Iterator[Level]:
    for group, look in zip(groups, looks(groups), strict=True):
        final = group.final(figure)
        if final is not None and largest(group, key, group.label) is None:
            yield Level(label=group.label, y=final.mean, look=look)


def _roc(groups: Sequence[Group]) -> Chart:
    series = []
    for group, look in zip(groups, looks(groups), strict=True):
        attacks = attack_scores(group.runs[0])
        for name, (scores, member) in list(attacks.items())[: 2 if len(groups) == 1 else 1]:
            false, true = roc(scores, member)
            # Logarithmic axes have no zero.
            seen = (false > 0) & (true > 0)
            label = name if len(groups) == 1 else group.label
            series.append(Series(label=label, x=false[seen], y=true[seen], look=look))
    return Chart(
        name="roc",
        title="ROC of membership inference",
        text="True against false positive rate of every threshold, on the model of the last "
        "audited round (of the first seed); logarithmic, since an attacker who is sure of a few "
        "people shows at the left. The dashed line is guessing.",
        x="false positive rate",
        y="true positive rate",
        log="xy",
        diagonal=True,
        series=series,
    )
