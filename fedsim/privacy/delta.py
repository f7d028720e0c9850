"""How small does delta have to be for what is protected?"""

from fedsim.errors import require


def delta_for(units: int, delta: float | None, what: str) -> float:
    """The delta of a run, checked, or its default: 1e-5, or a tenth of 1 / units if smaller.

    A mechanism that gives away one unit whole, chosen at random, has a delta of 1 / units.

    Args:
      units: how many are protected.
      delta: as configured, or None.
      what: the units' name in the refusal.

    Raises:
      ConfigError: delta is not below 1 / units.

    Example:
      >>> delta_for(612, None, "devices"), delta_for(100_000, None, "examples")
      (1e-05, 1e-06)
    """
    found = min(1e-5, 0.1 / units) if delta is None else delta
    require(
        found < 1 / units,
        f"delta is {found:g}, but {units} {what} are protected; choose less than "
        f"{1 / units:.1g}, or one of them could be given away whole",
    )
    return found
