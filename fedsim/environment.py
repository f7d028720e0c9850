"""Which code ran: versions of Python and of the packages that shape a result, and the commit."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("fedsim", "flwr", "torch", "numpy", "opacus", "datasets")


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
