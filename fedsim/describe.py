"""What was run, as plain JSON: configs, Flower strategies, versions, commit."""

import dataclasses
import math
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("fedsim", "flwr", "torch", "numpy", "opacus", "datasets")


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


def environment() -> dict[str, Any]:
    """Versions of Python and the packages that shape a result, and the commit of the code."""
    versions = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "platform": sys.platform, **versions, **_commit()}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """The commit of this source tree, where it is one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return {"commit": None}
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return {"commit": None}
    return {"commit": head.stdout.strip() or None, "uncommitted_changes": bool(changes.stdout)}
