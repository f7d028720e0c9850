"""What does a run's table say of leakage, and was its privacy claim refuted?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.report.table import Column

if TYPE_CHECKING:
    from fedsim.record import Run

EXCEEDED = "leakage/bound_exceeds_claim"
"""The figure that `fedsim.leakage` marks rounds with from which on a bound is above its claim."""

_BOUND, _CLAIM = "epsilon_audit_low", "epsilon_claim_at_delta_audit"

_MEASURED = (
    Column("mia_auc", "MIA AUC", "number"),
    Column(_BOUND, "eps audited", "number"),
)
_CLAIMED = Column(_CLAIM, "comparable claim", "number")


def leakage_columns(lines: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns of what was measured of leakage anywhere; the claim where it is finite."""
    measured = [c for c in _MEASURED if any(line.get(c.key) is not None for line in lines)]
    claims = (line.get(_CLAIM) for line in lines)
    finite = any(claim is not None and claim < np.inf for claim in claims)
    return [*measured, _CLAIMED] if finite else measured


def leakage_notes(run: "Run") -> list[str]:
    """A refuted claim first, then what the record says of the panel; nothing without a panel."""
    recorded = run.start.get("probes", {}).get("Leakage", {}).get("notes", [])
    refuted = refutation(run)
    said = [*([] if refuted is None else [f"CLAIM REFUTED: {refuted}"]), *recorded]
    return [f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in said]


def refutation(run: "Run") -> str | None:
    """What the audit refuted, when it first did; None where every bound is within its claim."""
    for line in run.rounds:
        if not line.get("figures", {}).get(EXCEEDED):
            continue
        shown = "; ".join(
            f"epsilon > {bound:.3g} for {who}, where {claim:.3g} is claimed"
            for who, bound, claim in _looks(line)
            if bound > claim
        )
        return (
            f"the audit of round {line['round']} shows more leakage than the run claims at delta "
            f"{line['delta_audit']:g} ({shown}); a mechanism or its accounting is broken, trust "
            "none of this run's epsilons"
        )
    return None


def _looks(line: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Whose bound, the bound, and the claim: of the panel and of each group."""
    yield "the panel", line[_BOUND], line[_CLAIM]
    figures = line["figures"]
    for name, bound in figures.items():
        if name.startswith(f"leakage/{_BOUND}_"):
            group = name.removeprefix(f"leakage/{_BOUND}_")
            yield f"its {group} devices", bound, figures[f"leakage/{_CLAIM}_{group}"]
