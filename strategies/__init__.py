"""Device selection, and how it goes together with any Flower strategy."""

from strategies.budgets import BudgetSelection, budgets_for_cohort
from strategies.draw import draw_cohort
from strategies.private import PrivateAggregation
from strategies.public_scale import PublicScale
from strategies.selection import (
    ActivitySelection,
    LogActivitySelection,
    SelectionPolicy,
    SoftmaxSelection,
    TopActivitySelection,
    UniformSelection,
)
from strategies.selective import Selective

__all__ = [
    "ActivitySelection",
    "BudgetSelection",
    "LogActivitySelection",
    "PrivateAggregation",
    "PublicScale",
    "SelectionPolicy",
    "Selective",
    "SoftmaxSelection",
    "TopActivitySelection",
    "UniformSelection",
    "budgets_for_cohort",
    "draw_cohort",
]
