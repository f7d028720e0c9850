"""How well does an attack do on the whole panel and on each activity group, as named figures?"""

import numpy as np

from fedsim.leakage.panel import GROUPS, Panel
from fedsim.leakage.success import Success, success
from fedsim.probes import Figures

NAMES = (
    *("auc", "auc_low", "auc_high", "tpr_at_1pct", "tpr_at_1pct_coarse"),
    *("tpr_at_01pct", "tpr_at_01pct_coarse", "members", "non_members"),
)
"""What is said of an attack and a group."""


def figures_by_group(name: str, panel: Panel, scores: np.ndarray) -> Figures:
    """`leakage/NAME_by_ATTACK` of the panel and `leakage/NAME_by_ATTACK_GROUP` of its groups.

    Args:
      name: the attack's.
      panel: who was attacked.
      scores: (m,) of its members, higher where it believes in membership; NaN for those that are
        left out, for reasons that do not follow from their coins.

    Returns:
      Figures by name; None where there are no members or no non-members, and for true positive
      rates that so few non-members cannot show.

    Example:
      >>> from fedsim.leakage.panels import example_panel
      >>> from fedsim.population import Population
      >>> panel = example_panel(Population.load("home", devices=20), seed=0, size=30)
      >>> figures = figures_by_group("oracle", panel, panel.included.astype(float))
      >>> figures["leakage/auc_by_oracle"], figures["leakage/auc_by_oracle_heavy"]
      (1.0, 1.0)
    """
    looks = zip(
        ("", *(f"_{group}" for group in GROUPS)), panel.looks(np.isfinite(scores)), strict=True
    )
    return {
        f"leakage/{key}_by_{name}{suffix}": value
        for suffix, who in looks
        for key, value in named(success(scores[who], panel.included[who])).items()
    }


def named(found: Success | None) -> Figures:
    """The figures of `NAMES`; None where nobody can be told, or so few non-members cannot show."""
    if found is None:
        return dict.fromkeys(NAMES)
    one, tenth = found.at_1pct, found.at_01pct
    values = (
        *(found.auc, found.low, found.high),
        *(one.tpr, None if one.tpr is None else one.coarse),
        *(tenth.tpr, None if tenth.tpr is None else tenth.coarse),
        *(found.members, found.non_members),
    )
    return dict(zip(NAMES, values, strict=True))
