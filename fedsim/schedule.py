"""Which period a round belongs to: the static and the continual setting.

Static: every device holds all its data in every round. Continual: histories are cut into
consecutive periods; each period brings new data, and `keep` says what survives of the old.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, get_args

from fedsim.errors import require
from fedsim.population.periods import By, Keep


class Schedule(Protocol):
    """Rounds over periods."""

    @property
    def rounds(self) -> int:
        """Rounds in all."""

    @property
    def periods(self) -> int:
        """Periods in all."""

    @property
    def by(self) -> By:
        """How histories are cut."""

    @property
    def retention(self) -> Keep:
        """What devices keep of the past."""

    def period(self, round: int) -> int:
        """Period (from 0) of a round (from 1)."""


@dataclass(frozen=True, kw_only=True)
class Static:
    """All data at once, in one period.

    Attributes:
      rounds: number of rounds, >= 1.
    """

    rounds: int
    periods: ClassVar[int] = 1
    by: ClassVar[By] = "device"
    retention: ClassVar[Keep] = Keep()

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"rounds is {self.rounds}; choose 1 or more")

    def period(self, round: int) -> int:
        """Always the only one."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Continual:
    """Consecutive periods of new data.

    Attributes:
      periods: number of periods, >= 1.
      rounds: rounds in all, >= periods; earlier periods take the remainder.
      keep: what survives of earlier periods: `current`, `window:k`, `reservoir:n` or `all`.
      by: "device" cuts each person's utterances, in their own order, into equal parts; "clock" cuts
        the order of collection.

    Example:
      >>> schedule = Continual(periods=3, rounds=8)
      >>> [schedule.period(r) for r in range(1, 9)]
      [0, 0, 0, 1, 1, 1, 2, 2]
    """

    periods: int
    rounds: int
    keep: str = "current"
    by: By = "device"

    def __post_init__(self) -> None:
        require(self.periods >= 1, f"periods is {self.periods}; choose 1 or more")
        require(
            self.rounds >= self.periods,
            f"rounds is {self.rounds}, but there are {self.periods} periods; "
            f"choose {self.periods} rounds or more (rounds are the total over all periods)",
        )
        require(
            self.by in get_args(By),
            f"by is {self.by!r}; choose one of {', '.join(get_args(By))}",
        )
        Keep.parse(self.keep)

    @property
    def retention(self) -> Keep:
        """`keep`, parsed."""
        return Keep.parse(self.keep)

    def period(self, round: int) -> int:
        """Period (from 0) of a round (from 1)."""
        longer, longer_periods = -(-self.rounds // self.periods), self.rounds % self.periods
        if longer_periods == 0:
            return (round - 1) // longer
        first_short = longer * longer_periods
        if round <= first_short:
            return (round - 1) // longer
        return longer_periods + (round - 1 - first_short) // (longer - 1)
