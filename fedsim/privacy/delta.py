"""How small does delta have to be for what is protected?"""

import math

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
        f"delta is {found:g}, but {units} {what} are protected; choose {_below(1 / units):g} or "
        "less, or one of them could be given away whole",
    )
    return found


def _below(bound: float) -> float:
    """A number of two digits just below a bound in (0, 1].

    Example:
      >>> _below(1 / 612), _below(1 / 500), _below(1.0)
      (0.0016, 0.0019, 0.9)
    """
    digits = 1 - math.floor(math.log10(bound))
    return round((math.ceil(bound * 10**digits - 1e-9) - 1) / 10**digits, digits)
