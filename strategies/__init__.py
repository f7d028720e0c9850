"""Device selection, and how it goes together with any Flower strategy."""

from strategies.private import PrivateAggregation
from strategies.selection import (
    ActivitySelection,
    LogActivitySelection,
    PublicScale,
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
    "PrivateAggregation",
    "PublicScale",
    "SelectionPolicy",
    "Selective",
    "SoftmaxSelection",
    "TopActivitySelection",
    "UniformSelection",
    "draw_cohort",
]
