"""Does a policy, or a noise schedule, read what it declares, and can it be saved?

What each may declare by `reads`, and what may be claimed then, stands in `strategies.selective`.
One that reads more than activity remembers what it read, so a checkpoint has to hold it.
"""

from typing import Any, Protocol

from torch import Tensor

from fedsim.errors import require
from fedsim.privacy.claim import READS, reads_of
from fedsim.privacy.release import DeviceLevel
from fedsim.state import Stateful


class NoiseSchedule(Stateful, Protocol):
    """Noise multipliers that follow what was released, of every round of a run.

    One that reads anything else than released models says so by `reads = "private"`.
    """

    def noise_multiplier(self, round: int) -> float:
        """sigma of a round, from 1, asked for once in it; that of the first is the mechanism's."""

    def released(self, round: int, parameters: dict[str, Tensor]) -> None:
        """Told after every round what its new global model is, in copies of its own."""


def check_policy(policy: Any) -> None:
    """Refuse a policy that reads more than it declares, or remembers and cannot be saved.

    Raises:
      ConfigError: it does.
    """
    name, reads = type(policy).__name__, reads_of(policy)
    _check_declared(policy)
    for method, least in (("released", "releases"), ("replied", "private")):
        allowed = READS[READS.index(least) :]
        require(
            not hasattr(policy, method) or reads in allowed,
            f"{name} has {method}() and reads {reads!r}; declare reads = {least!r}, or leave "
            f"{method}() out",
        )
    if reads != "activity":
        _check_remembers(policy, told=reads == "releases")


def check_noise(noise: NoiseSchedule, mechanism: DeviceLevel) -> None:
    """Refuse a noise schedule that does not fit the mechanism, is told nothing or cannot be saved.

    Raises:
      ConfigError: it is one.
    """
    name = type(noise).__name__
    _check_declared(noise)
    _check_remembers(noise, told=True)
    begins = noise.noise_multiplier(1)
    require(
        begins == mechanism.noise_multiplier,
        f"noise_multiplier is {mechanism.noise_multiplier}, and {name} begins at {begins}; give "
        "both the same",
    )
    fixed = mechanism.adaptive is not None and mechanism.adaptive.bit_noise is not None
    require(
        not fixed,
        f"bit_noise is fixed, but {name} changes the noise it must exceed half of; leave bit_noise "
        "out",
    )


def _check_declared(reader: Any) -> None:
    name, reads = type(reader).__name__, reads_of(reader)
    require(reads in READS, f"reads of {name} is {reads!r}; choose one of {', '.join(READS)}")


def _check_remembers(reader: Any, told: bool) -> None:
    name = type(reader).__name__
    require(
        not told or hasattr(reader, "released"),
        f"{name} has no released(round, parameters), which is how it is told of what was released",
    )
    require(
        isinstance(reader, Stateful),
        f"{name} remembers what it read; give it state_dict() and load_state_dict(), so that a run "
        "that was interrupted can go on",
    )
