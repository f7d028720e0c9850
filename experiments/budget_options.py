"""Which budget does each device have, and which selection policy follows from them?

`--budgets` names groups of devices ("2:.54,4:.37,8:.09": epsilon 2 for 54 % of the devices, ...) or
a range ("1-8": every device has an epsilon of its own, spread evenly over the logarithms). Devices
are dealt theirs at random, whatever they hold. A list of one's own goes to
`strategies.budgets_for_cohort`.
"""

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    from experiments.options import RunOptions
    from strategies import BudgetSelection

DIGITS = 2
"""Of a budget in a range; budgets that agree to so many share a rate."""


def check_budgets(options: "RunOptions") -> None:
    """Refuse budgets that no policy can keep, before a corpus is read.

    Raises:
      ConfigError: budgets without the policy or the policy without them, no budgets at all, or a
        privacy under which rates do not follow from budgets.
    """
    own, text = options.selection == "budgets", options.budgets
    require(
        own or text is None,
        f"budgets is {text}, which --selection {options.selection} does not use; choose "
        "--selection budgets",
    )
    if not own:
        return
    if text is None:
        raise ConfigError(
            "selection is budgets, and there are none; add --budgets, such as 2:.54,4:.37,8:.09 "
            "or 1-8"
        )
    _groups(text)
    wanted = {"dp": "device", "draw": "poisson", "adjacency": "zero-out"}
    for name, value in wanted.items():
        found = getattr(options, name)
        require(found == value, f"{name} is {found}; --selection budgets needs --{name} {value}")
    require(
        options.weighting in ("auto", "equal"),
        f"weighting is {options.weighting}; --selection budgets needs equal weights",
    )
    for name in ("noise_multiplier", "epsilon", "scale"):
        found = getattr(options, name)
        require(
            found is None,
            f"{name.replace('_', '-')} is {found}, but --budgets and --cohort fix the noise; "
            "leave it out",
        )


def dealt(text: str, devices: int, seed: int) -> tuple[float, ...]:
    """The budget of every device.

    Args:
      text: groups or a range, as above.
      devices: how many.
      seed: of who gets which.

    Raises:
      ConfigError: the text is neither.

    Example:
      >>> sorted(dealt("2:.5,8:.5", 4, seed=0)), sorted(dealt("1-4", 3, seed=0))
      ([2.0, 2.0, 8.0, 8.0], [1.0, 2.0, 4.0])
    """
    # Options are parsed without them, so that --help answers at once.
    import numpy as np

    from fedsim.rng import stream

    groups = _groups(text)
    if isinstance(groups, dict):
        ends = np.round(np.cumsum(list(groups.values())) * devices).astype(int)
        values = np.repeat(list(groups), np.diff(ends, prepend=0))
    else:
        spread = np.geomspace(*groups, devices)
        values = np.array([float(f"{value:.{DIGITS}g}") for value in spread])
    return tuple(stream(seed, "budgets").permutation(values).tolist())


@lru_cache(maxsize=8)
def budget_policy(
    text: str, devices: int, seed: int, cohort: float, rounds: int, delta: float | None
) -> "BudgetSelection":
    """The policy that spends the budgets on an expected cohort; it knows the noise that takes.

    Raises:
      ConfigError: delta is too large, or the cohort is.
    """
    from fedsim.privacy.delta import delta_for
    from strategies import budgets_for_cohort

    return budgets_for_cohort(
        dealt(text, devices, seed),
        cohort=cohort,
        rounds=rounds,
        delta=delta_for(devices, delta, "devices"),
    )


def _groups(text: str) -> dict[float, float] | tuple[float, float]:
    """Epsilon -> share of the devices, or the ends of a range."""
    pairs = [part.partition(":")[::2] for part in text.split(",")] if ":" in text else []
    groups: dict[float, float] = {}
    least = most = 0.0
    with suppress(ValueError):
        if pairs:
            groups = {float(epsilon): float(share) for epsilon, share in pairs}
        else:
            least, most = map(float, text.split("-"))
    if not groups and 0 < least < most < float("inf"):
        return least, most
    numbers = [*groups, *groups.values()]
    require(
        bool(numbers) and all(0 < number < float("inf") for number in numbers),
        f"budgets is {text!r}; expected epsilon:share pairs such as 2:.54,4:.37,8:.09, or a range "
        "such as 1-8, of finite numbers above 0",
    )
    require(
        len(groups) == len(pairs),
        f"budgets {text!r} name an epsilon twice; name each once, with the sum of its shares",
    )
    total = sum(groups.values())
    require(
        abs(total - 1) < 1e-6,
        f"shares of the budgets {text!r} sum to {total:g}; let them sum to 1",
    )
    return groups
