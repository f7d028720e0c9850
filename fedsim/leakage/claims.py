"""With which epsilon may a lower bound be compared?

A bound from fair coins is about what the coin decided. It may be held against a claim about the
same unit, the same observer, the same devices and the same delta, and against no other: zero-out
device-level privacy, for one, does not bound what replacing a single example does. `comparison` is
the table of what may be compared with what; whatever is not in it yields an AUC and true positive
rates only.

Group privacy: a mechanism that is (epsilon, delta)-private for one record is, for R of them,
(R epsilon, delta (e^{R epsilon} - 1) / (e^epsilon - 1))-private (Vadhan, "The complexity of
differential privacy", 2017, lemma 2.2).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.privacy.account import Account

Coin = Literal["device", "example", "copies on one device", "copies on many devices"]
"""What one coin decides: whether a whole device, one example, or one secret repeated R times (on
one device, or spread over R of them) is in the training data; absent is null."""

Observer = Literal["models", "update"]
"""Who attacks: someone who sees the released models, or a server that sees one device's update."""

ClaimUnit = Literal["device", "example"]
"""What the mechanism protects."""

LARGEST_EXPONENT = 700
"""e to more than this is no float; a delta times it is above 1 anyway."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The epsilon that a lower bound may be held against, always at the audit's own delta.

    Attributes:
      unit: of the ledger that is read.
      adjacency: "zero-out" (the unit becomes null) or "replace-one" (it becomes another).
      devices: over which devices the largest epsilon is taken: those of the panel (or of the
        panel's group), or the one that was attacked, with its realised ledger.
      group: whether the ledger's epsilon is first carried over to R records by `group_claim`.
    """

    unit: ClaimUnit
    adjacency: Literal["zero-out", "replace-one"]
    devices: Literal["panel", "attacked"] = "panel"
    group: bool = False


_ZERO_OUT_DEVICES = Comparison(unit="device", adjacency="zero-out")
_REPLACED_DEVICES = Comparison(unit="device", adjacency="replace-one")
_EXAMPLES = Comparison(unit="example", adjacency="zero-out")

_TABLE: dict[tuple[Coin, Observer, ClaimUnit], Comparison] = {
    ("device", "models", "device"): _ZERO_OUT_DEVICES,
    ("example", "models", "device"): _REPLACED_DEVICES,
    ("example", "models", "example"): _EXAMPLES,
    ("copies on one device", "models", "device"): _REPLACED_DEVICES,
    ("copies on one device", "models", "example"): Comparison(
        unit="example", adjacency="zero-out", group=True
    ),
    ("copies on many devices", "models", "device"): Comparison(
        unit="device", adjacency="replace-one", group=True
    ),
    ("copies on many devices", "models", "example"): Comparison(
        unit="example", adjacency="zero-out", group=True
    ),
    ("example", "update", "example"): Comparison(
        unit="example", adjacency="zero-out", devices="attacked"
    ),
}


def comparison(coin: Coin, observer: Observer, claim: ClaimUnit) -> Comparison | None:
    """What a bound may be compared with, or None: never.

    Args:
      coin: what one fair coin decided.
      observer: who attacks.
      claim: the unit that the mechanism protects.

    Example:
      >>> comparison("example", "models", "device").adjacency
      'replace-one'
      >>> comparison("device", "models", "example") is None
      True
    """
    return _TABLE.get((coin, observer, claim))


def claimed(
    account: Account, unit: Literal["device", "example"], devices: np.ndarray, delta: float
) -> float:
    """The epsilon that a bound from the released models may be held against, up to now.

    Args:
      account: the run's ledgers.
      unit: what one fair coin decided.
      devices: (n,) those of the panel, or of its part that was looked at.
      delta: the audit's.

    Returns:
      The largest over these devices, of the smaller admissible claim where there are two; infinite
      where nothing is claimed that may be compared.

    Example:
      >>> claimed(Account(), "example", np.array([0, 1]), 1e-9)
      inf
    """
    found = [math.inf]
    about_devices = comparison(unit, "models", "device")
    if account.device is not None and about_devices is not None:
        found.append(account.device.highest(devices, delta, about_devices.adjacency))
    if account.example is not None and comparison(unit, "models", "example") is not None:
        found.append(account.example.highest(devices, delta))
    return min(found)


def group_claim(epsilon: float, delta: float, copies: int) -> tuple[float, float]:
    """(epsilon, delta) for `copies` records at once, from that of one.

    Args:
      epsilon: of one record, >= 0; may be infinite.
      delta: of one record.
      copies: R, >= 1.

    Returns:
      Epsilon R times as large, and the larger delta; an epsilon of infinity where that delta is 1
      or more, because nothing is then claimed.

    Example:
      >>> epsilon, delta = group_claim(0.5, 1e-9, 4)
      >>> epsilon, float(f"{delta:.2g}")
      (2.0, 9.8e-09)
    """
    if delta == 0:
        return copies * epsilon, 0.0
    if copies * epsilon > LARGEST_EXPONENT:
        return math.inf, 1.0
    ratio = math.expm1(copies * epsilon) / math.expm1(epsilon) if epsilon else float(copies)
    grown = delta * ratio
    return (copies * epsilon, grown) if grown < 1 else (math.inf, 1.0)
