"""How does noise fall while a device trains, and what does each stretch of steps cost?

The noise multiplier is multiplied by a factor after every so many steps of a participation. Each
step is priced at its own: a mean, or the first one, would be no bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedsim.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class NoiseDecay:
    """sigma x factor ** (step // every), steps counted from 0 in every participation.

    Attributes:
      factor: in (0, 1].
      every: steps between changes, >= 1: those of an epoch, where noise is to fall epoch by epoch.

    Example:
      >>> decay = NoiseDecay(factor=0.5, every=10)
      >>> decay.at(9), decay.at(10)
      (1.0, 0.5)
      >>> list(decay.stretches(25))
      [(1.0, 10), (0.5, 10), (0.25, 5)]
      >>> list(decay.stretches(10, first=25))
      [(0.25, 5), (0.125, 5)]
      >>> NoiseDecay.parse("0.5:10") == decay
      True
    """

    factor: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        require(
            0 < self.factor <= 1,
            f"factor of the noise decay is {self.factor}; choose more than 0 and at most 1",
        )
        require(self.every >= 1, f"every of the noise decay is {self.every}; choose 1 or more")

    @classmethod
    def parse(cls, text: str) -> "NoiseDecay":
        """Read `FACTOR:STEPS`.

        Raises:
          ConfigError: it is nothing of the kind.
        """
        factor, _, every = text.partition(":")
        try:
            return cls(factor=float(factor), every=int(every))
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(
                f"noise_decay is {text!r}; expected FACTOR:STEPS, such as 0.9:10 for a tenth less "
                "after every 10 local steps"
            ) from None

    def at(self, step: int) -> float:
        """What the noise multiplier is multiplied by at a step."""
        return self.factor ** (step // self.every)

    def stretches(self, steps: int, first: int = 0) -> Iterator[tuple[float, int]]:
        """(multiple, steps) of each stretch of equal noise among the steps after the first few."""
        if self.factor == 1:
            yield 1.0, steps
            return
        last = first + steps
        while first < last:
            until = min(last, (first // self.every + 1) * self.every)
            yield self.at(first), until - first
            first = until
