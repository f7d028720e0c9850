"""Which devices fail in a round, how, and how long do they take?

Faults are part of a simulation's config and are drawn from streams of its seed: what befalls a
device in a round is a pure function of (seed, round, device), and its speed one of (seed, device).
Neither the number of workers nor who else was drawn changes them.
"""

import math
from dataclasses import dataclass, fields

import numpy as np

from fedsim.errors import ConfigError, did_you_mean, require
from fedsim.rng import stream

KINDS = ("unavailable", "dropout", "nan", "exploding", "error")
"""What can befall a device, in the order in which one uniform number is cut into their shares."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong on devices, in training alone; evaluation is spared.

    The five probabilities are of a device that was drawn for a round, and exclude each other: one
    uniform number decides which of them befalls it, or none. So each rate is what it says, and
    their sum may not exceed 1.

    With a deadline every device also has a speed, drawn once from a lognormal distribution, and a
    clock that is simulated: a device takes as long as its optimizer needs for the examples that it
    is served. What comes after the deadline is late and does not count. The clock depends on
    nothing that is measured.

    Attributes:
      unavailable: the device cannot be reached and is not asked.
      dropout: it trains, and its reply is lost.
      nan: its reply holds NaN instead of parameters.
      exploding: its parameters are multiplied by 1e30: finite, and so large that a server can tell.
        Factors that no check of a single reply finds ruin a mean; robust strategies are for those.
      error: it raises an error instead of training.
      deadline: simulated seconds after which a round closes, > 0, or None.
      speed: median speed of the devices in examples a simulated second, > 0.
      spread: standard deviation of the logarithm of the speed over devices, >= 0.

    Example:
      >>> faults = Faults.parse("dropout=.3,nan=.05,deadline=2")
      >>> faults.dropout, faults.nan, faults.error, faults.deadline
      (0.3, 0.05, 0.0, 2.0)
      >>> [faults.fate(7, round=1, device=d) for d in range(4)]
      ['dropout', 'nan', 'dropout', None]
    """

    unavailable: float = 0.0
    dropout: float = 0.0
    nan: float = 0.0
    exploding: float = 0.0
    error: float = 0.0
    deadline: float | None = None
    speed: float = 100.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        for kind in KINDS:
            rate = getattr(self, kind)
            require(0 <= rate <= 1, f"{kind} of faults is {rate:g}; choose a probability, 0 to 1")
        total = math.fsum(self.rates)
        require(
            total <= 1 + 1e-9,
            f"the probabilities of faults sum to {total:g}; they exclude each other, so lower them "
            "to a sum of 1 or less",
        )
        for name in ("deadline", "speed"):
            value = getattr(self, name)
            require(
                value is None or 0 < value < math.inf,
                f"{name} of faults is {value}; choose a finite number above 0",
            )
        require(
            0 <= self.spread < math.inf,
            f"spread of faults is {self.spread:g}; choose a finite number, 0 (equal speeds) or "
            "more",
        )
        for name, usual in (("speed", Faults.speed), ("spread", Faults.spread)):
            value = getattr(self, name)
            require(
                value == usual or self.deadline is not None,
                f"{name} of faults is {value:g}, which has no effect without a deadline; "
                "add deadline=SECONDS",
            )

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Read `dropout=.3,nan=.05,deadline=20`.

        Raises:
          ConfigError: an unknown kind, one given twice, or what is no number.

        Example:
          >>> Faults.parse("dropuot=.3")
          Traceback (most recent call last):
          fedsim.errors.ConfigError: faults names 'dropuot' (did you mean 'dropout'?); choose ...
        """
        known = [field.name for field in fields(cls)]
        values: dict[str, float] = {}
        for part in text.split(","):
            name, equals, number = (word.strip() for word in part.partition("="))
            if not equals:
                raise ConfigError(
                    f"faults has the part {part.strip()!r}; expected name=number pairs joined by "
                    "commas, such as dropout=.3,nan=.05,error=.05"
                )
            if name not in known:
                hint = did_you_mean(name, known)
                raise ConfigError(f"faults names {name!r}{hint}; choose among {', '.join(known)}")
            require(name not in values, f"faults names {name} twice; give it once")
            try:
                values[name] = float(number)
            except ValueError:
                raise ConfigError(
                    f"{name} of faults is {number!r}; expected a number, such as {name}=.1"
                ) from None
        return cls(**values)

    @property
    def rates(self) -> tuple[float, ...]:
        """Probabilities in the order of KINDS."""
        return tuple(getattr(self, kind) for kind in KINDS)

    def fate(self, seed: int, *, round: int, device: int) -> str | None:
        """One of KINDS, or None: what befalls a device in a round."""
        uniform = stream(seed, "faults", round, device).random()
        place = int(np.searchsorted(np.cumsum(self.rates), uniform, side="right"))
        return KINDS[place] if place < len(KINDS) else None

    def seconds(self, seed: int, devices: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """Simulated seconds that devices train.

        Args:
          seed: the run's.
          devices: (n,) ids.
          examples: (n,) examples their optimizers are served in the round, repeats counted.
        """
        normal = [stream(seed, "speed", device=int(d)).standard_normal() for d in devices]
        return examples / (self.speed * np.exp(self.spread * np.array(normal)))
