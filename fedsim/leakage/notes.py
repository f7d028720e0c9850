"""What must a reader know of a panel and its audit to read a run's figures rightly?"""

from collections.abc import Sequence

from fedsim.leakage.panel import Panel
from fedsim.population import Population
from fedsim.privacy.account import Unit

_AGAINST = {
    ("device", "device"): "the device-level epsilon (a device becomes null)",
    ("example", "device"): (
        "the device-level epsilon of replacing what a device holds (a coin changes an example and "
        "leaves its device in, which epsilon_max, of a device that becomes null, does not bound)"
    ),
    ("example", "example"): "the example-level epsilon (one record becomes null)",
}
"""What a coin decides and what the mechanism protects -> the claim that a bound may refute."""


def panel_notes(
    panel: Panel, population: Population, claims: Sequence[Unit], level: float
) -> list[str]:
    """Sentences for the record: what the panel cost, and what the bound may be compared with.

    Args:
      panel: who is attacked.
      population: before the panel's coins were applied.
      claims: the units of which the run claims a finite epsilon that may be compared with it.
      level: probability that any of the audit's bounds is wrong.
    """
    return [_cost(panel, population), _comparison(panel, claims), _meaning(level)]


def _cost(panel: Panel, population: Population) -> str:
    if panel.examples(population).null.all():
        return (
            f"leakage is measured on {len(panel):,} canary devices, which hold no words: fair "
            f"coins let {int(panel.included.sum()):,} of them answer, whenever they are drawn, "
            "with a step in a direction of their own, and the others with the model that they "
            "were sent; what that cost in accuracy, a run without them says"
        )
    total = int(population.starts[-1])
    out = int(panel.excluded(population).sum())
    return (
        f"leakage is measured on a panel of {len(panel):,} {panel.unit}s: fair coins took "
        f"{out:,} of {total:,} training examples ({100 * out / max(total, 1):.1f} %) out of "
        "training before it began; what that cost in accuracy, a run without the panel says"
    )


def _comparison(panel: Panel, claims: Sequence[Unit]) -> str:
    admitted = [_AGAINST[key] for unit in claims if (key := (panel.unit, unit)) in _AGAINST]
    if not admitted:
        return (
            f"the audited bound is about one {panel.unit} of the panel, and no claim of this run "
            "may be compared with it: epsilon_claim_at_delta_audit is infinite"
        )
    among = "" if len(admitted) == 1 else " (the smaller of the two)"
    return (
        "the audited bound may be compared with epsilon_claim_at_delta_audit alone: the largest, "
        "over the panel's own devices, at the audit's own delta, before an observer of the "
        f"released models, of {' and '.join(admitted)}{among}"
    )


def _meaning(level: float) -> str:
    return (
        f"the audited bound (epsilon_audit_low) holds with {100 * (1 - level):g} % confidence for "
        "all audited rounds, groups and numbers of guesses together; it can show that a mechanism "
        "or its accounting is broken, and confirms nothing by being small"
    )
