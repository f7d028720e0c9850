"""What was run, as plain JSON: configs and Flower strategies."""

import dataclasses
import math
from typing import Any

import numpy as np


def describe(value: Any) -> Any:
    """A config object as JSON values: class name and public fields, nested.

    Example:
      >>> from fedsim.schedule import Static
      >>> describe(Static(rounds=3))
      {'class': 'Static', 'rounds': 3}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    elif not hasattr(value, "__dict__"):
        return {"class": type(value).__name__}
    else:
        fields = {k: v for k, v in vars(value).items() if not k.startswith("_") and v is not None}
    return {"class": type(value).__name__, **{k: describe(v) for k, v in fields.items()}}
