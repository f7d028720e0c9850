"""How do figures become standard JSON, and come back?

JSON has no number for infinity and "not a number"; in the files of a run they are strings.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

NOT_FINITE = ("inf", "-inf", "nan")
"""What stands in the files for figures that standard JSON has no number for."""


def encoded(value: Any) -> Any:
    """Figures as standard JSON values: infinity as the string "inf", NumPy values as plain ones.

    Example:
      >>> encoded({"epsilon_max": float("inf"), "figures": {"probe/x": np.float32(0.5)}})
      {'epsilon_max': 'inf', 'figures': {'probe/x': 0.5}}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def decoded(figures: dict[str, Any]) -> dict[str, Any]:
    """The strings that stand for figures without a JSON number back to floats, nested ones too.

    Example:
      >>> decoded({"epsilon_max": "inf", "figures": {"probe/x": "-inf"}})
      {'epsilon_max': inf, 'figures': {'probe/x': -inf}}
    """
    return {
        key: decoded(value)
        if isinstance(value, dict)
        else float(value)
        if isinstance(value, str) and value in NOT_FINITE
        else value
        for key, value in figures.items()
    }
