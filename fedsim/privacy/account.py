"""Which ledgers does a run keep?

Whoever checks a claim reads the ledgers themselves, because it may ask for other devices, another
delta or another relation than the figures of a round's line.
"""

from dataclasses import dataclass
from typing import Any

from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.example_ledger import ExampleLedger


@dataclass(frozen=True, kw_only=True, eq=False)
class Account:
    """What a run charges its privacy to; without a ledger nothing of that unit is claimed.

    Attributes:
      device: of device-level privacy, or None.
      example: of example-level privacy, or None.

    Example:
      >>> Account(device=DeviceLedger(3, delta=1e-5)).unit
      'device'
      >>> Account().unit
      'none'
    """

    device: DeviceLedger | None = None
    example: ExampleLedger | None = None

    @staticmethod
    def of(strategy: Any, example: ExampleLedger | None) -> "Account":
        """The ledgers of a run.

        Args:
          strategy: `Selective(PrivateAggregation(...))` keeps a ledger, others keep none.
          example: of the devices' own privacy, or None.
        """
        return Account(
            device=getattr(getattr(strategy, "strategy", None), "ledger", None), example=example
        )

    @property
    def unit(self) -> str:
        """What is protected: "none", "device", "example" or "both", as in a round's line."""
        if self.device is None:
            return "none" if self.example is None else "example"
        return "device" if self.example is None else "both"
