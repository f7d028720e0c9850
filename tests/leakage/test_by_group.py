"""Figures of an attack by group: those of `success` on the members of each."""

import numpy as np
import pytest

from fedsim.leakage.by_group import NAMES, figures_by_group
from fedsim.leakage.panel import GROUPS
from fedsim.leakage.panels import example_panel
from fedsim.leakage.success import success
from fedsim.population import Population
from fedsim.rng import stream

PANEL = example_panel(Population.load("home", devices=8), seed=0, size=300)


def test_every_group_is_scored_on_its_own_members():
    scores = stream(0, "scores").random(300)
    figures = figures_by_group("mine", PANEL, scores)
    for suffix, who in [("", np.ones(300, bool))] + [
        (f"_{name}", PANEL.group == k) for k, name in enumerate(GROUPS)
    ]:
        found = success(scores[who], PANEL.included[who])
        assert figures[f"leakage/auc_by_mine{suffix}"] == found.auc
        assert figures[f"leakage/auc_low_by_mine{suffix}"] == found.low
        assert figures[f"leakage/tpr_at_1pct_by_mine{suffix}"] == found.at_1pct.tpr
        assert figures[f"leakage/members_by_mine{suffix}"] == PANEL.included[who].sum()


def test_true_positive_rates_are_null_or_coarse_where_non_members_are_few():
    figures = figures_by_group("mine", PANEL, stream(0, "scores").random(300))
    assert figures["leakage/tpr_at_1pct_coarse_by_mine"]
    assert figures["leakage/tpr_at_1pct_by_mine_light"] is None
    assert figures["leakage/tpr_at_01pct_by_mine"] is None
    assert figures["leakage/tpr_at_01pct_coarse_by_mine"] is None


def test_members_without_a_score_are_left_out():
    scores = np.where(PANEL.group == 0, np.nan, PANEL.included)
    figures = figures_by_group("mine", PANEL, scores)
    counted = figures["leakage/members_by_mine"] + figures["leakage/non_members_by_mine"]
    assert counted == (PANEL.group > 0).sum()
    assert figures["leakage/auc_by_mine"] == 1.0


@pytest.mark.parametrize("suffix", ["", *(f"_{name}" for name in GROUPS)])
def test_without_any_score_every_figure_is_null(suffix):
    figures = figures_by_group("mine", PANEL, np.full(300, np.nan))
    assert all(figures[f"leakage/{name}_by_mine{suffix}"] is None for name in NAMES)
