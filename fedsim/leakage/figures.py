"""Under which names does a measured panel stand in a round's line?"""

from collections.abc import Sequence

import numpy as np

from fedsim.leakage.by_group import named
from fedsim.leakage.panel import GROUPS
from fedsim.leakage.success import Success, success
from fedsim.probes import Figures


def figures_of(
    scores: np.ndarray,
    member: np.ndarray,
    looks: Sequence[np.ndarray],
    bounds: np.ndarray,
    claims: Sequence[float],
) -> Figures:
    """Columns of the line, and `leakage/...` beside them, of the primary attack.

    Args:
      scores: (m,) of the attack.
      member: (m,) bool, how the coins fell.
      looks: (1 + groups,) of (m,) bool: the members present, of the panel and of each group.
      bounds: (1 + groups,) lower bounds on epsilon.
      claims: (1 + groups,) what they are held against.
    """
    whole, *groups = [success(scores[who], member[who]) for who in looks]
    figures: Figures = {
        **{f"mia_{name}": value for name, value in _main(whole).items()},
        "epsilon_audit_low": float(bounds[0]),
        "epsilon_claim_at_delta_audit": claims[0],
        **{f"leakage/{name}": value for name, value in _more(whole).items()},
    }
    for k, (name, of) in enumerate(zip(GROUPS, groups, strict=True), start=1):
        figures |= {f"leakage/{key}_{name}": v for key, v in {**_main(of), **_more(of)}.items()}
        figures[f"leakage/epsilon_audit_low_{name}"] = float(bounds[k])
        figures[f"leakage/epsilon_claim_at_delta_audit_{name}"] = claims[k]
    return figures


def _main(found: Success | None) -> Figures:
    """AUC with its interval and the true positive rate at 1 %; None where nobody can be told."""
    figures = named(found)
    return {key: figures[key] for key in ("auc", "auc_low", "auc_high", "tpr_at_1pct")}


def _more(found: Success | None) -> Figures:
    """How many the first figures rest on, and the true positive rate at 0.1 %."""
    figures = named(found)
    said = {key: figures[key] for key in ("members", "non_members", "tpr_at_01pct")}
    coarse = ("tpr_at_1pct_coarse", "tpr_at_01pct_coarse")
    return said | {key: figures[key] for key in coarse if figures[key] is not None}
