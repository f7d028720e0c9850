"""Is the run in a folder the one that is to go on?

A run goes on only under the config, the code and the data that began it; anything else would end in
a record of something that never ran.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError
from fedsim.record.encoding import encoded

MAY_DIFFER = frozenset({"workers", "data", "checkpoint_every", "tracker"})
"""Options that change no result. Data may have moved: fingerprints tell whether it is the same."""

_UNSEEN = frozenset({"recipe", "untrained", "environment.uncommitted_changes"})
"""Not compared: what stands at the top level too, or follows from the rest."""

MOST_NAMED = 6


def check_same(path: Path, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of another config, version or population.

    Args:
      path: the file that was read, for the message.
      recorded: its contents.
      now: what it would hold if the run were started now.

    Raises:
      ConfigError: names the fields that differ.
    """
    there, here = _flat(recorded), _flat(json.loads(json.dumps(encoded(now), default=str)))
    differing = [
        f"{name} ({_shown(there, name)} there, {_shown(here, name)} now)"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differing:
        more = len(differing) - MOST_NAMED
        named = ", ".join(differing[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise ConfigError(
            f"{path} is of another run: {named}; restore what began it, or run into another folder"
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names, without those that may differ."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if key in MAY_DIFFER or name in _UNSEEN:
            continue
        if isinstance(item, Mapping):
            found |= _flat(item, f"{name}.")
        else:
            found[name] = item
    return found


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"
