"""Which ledgers does a run keep?

Whoever checks a claim reads the ledgers themselves, because it may ask for other devices, another
delta or another relation than the figures of a round's line.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedsim.privacy.claim import reads_of
from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.example_ledger import ExampleLedger
from fedsim.privacy.filtered_ledger import FilteredLedger

if TYPE_CHECKING:
    from fedsim.privacy.example_spent import ExamplePrivacy

Unit = Literal["device", "example"]
"""What a ledger protects."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Account:
    """What a run charges its privacy to; without a ledger nothing of that unit is claimed.

    Attributes:
      device: of device-level privacy, or None.
      example: of example-level privacy, or None.
      unbounded: units of which the first charge ends every claim: their mechanism adds no noise, or
        who takes part follows something that voids it.

    Example:
      >>> ledger = DeviceLedger(3, delta=1e-5)
      >>> Account(device=ledger).claims, Account().claims
      (('device',), ())
      >>> Account(device=ledger, unbounded=frozenset({"device"})).claims
      ()
    """

    device: DeviceLedger | FilteredLedger | None = None
    example: ExampleLedger | None = None
    unbounded: frozenset[Unit] = frozenset()

    @staticmethod
    def of(strategy: Any, example: "ExamplePrivacy | None") -> "Account":
        """The ledgers of a run.

        Args:
          strategy: `Selective(PrivateAggregation(...))` keeps a ledger, others keep none.
          example: of the devices' own privacy, or None.
        """
        private: Any = getattr(strategy, "strategy", None)
        device = getattr(private, "ledger", None)
        unbounded = set[Unit]()
        reads = reads_of(strategy)
        if device is not None and (private.mechanism.noise_multiplier == 0 or reads == "private"):
            unbounded.add("device")
        if example is not None and (
            example.mechanism.noise_multiplier == 0 or example.reads != "activity"
        ):
            unbounded.add("example")
        return Account(
            device=device,
            example=None if example is None else example.ledger,
            unbounded=frozenset(unbounded),
        )

    @property
    def claims(self) -> tuple[Unit, ...]:
        """The units of which a finite epsilon is claimed."""
        ledgers: dict[Unit, Any] = {"device": self.device, "example": self.example}
        return tuple(
            u for u, kept in ledgers.items() if kept is not None and u not in self.unbounded
        )

    def comparable(self, coin: Unit) -> tuple[Unit, ...]:
        """The units whose claims a bound about one such unit, in or out by a coin, is held against.

        A filter's budget is about a device that becomes null. Where a coin decides on an example,
        other data take the place of a device's, and it claims nothing of that.

        Example:
          >>> filtered = Account(device=FilteredLedger(3, delta=1e-5, budget=4.0, order=8))
          >>> filtered.comparable("device"), filtered.comparable("example")
          (('device',), ())
        """
        filtered = isinstance(self.device, FilteredLedger)
        return tuple(
            u for u in self.claims if not (filtered and (coin, u) == ("example", "device"))
        )
