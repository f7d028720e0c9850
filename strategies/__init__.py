"""Device selection, and how it goes together with any Flower strategy."""

from strategies.selection import (
    ActivitySelection,
    LogActivitySelection,
    SelectionPolicy,
    SoftmaxSelection,
    TopActivitySelection,
    UniformSelection,
    draw_cohort,
)
from strategies.selective import Selective

__all__ = [
    "ActivitySelection",
    "LogActivitySelection",
    "SelectionPolicy",
    "Selective",
    "SoftmaxSelection",
    "TopActivitySelection",
    "UniformSelection",
    "draw_cohort",
]
