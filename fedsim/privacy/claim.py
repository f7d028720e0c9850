"""What holds for every epsilon of a run, whatever its unit, and what may rates depend on?

Rates, weights and noise that follow from activity alone are known before the first round, and a
ledger adds up what they cost. Where they follow what was released, nothing is known in advance, and
a filter holds every device within a budget (`fedsim.privacy.filtered_ledger`). Where they follow
anything else that devices say or hold, a model gives away what no noise was added to.
"""

from collections.abc import Iterable
from typing import Literal

EVERY_CLAIM = (
    "the claim is about the models of one run with secret randomness",
    "outside the claim: who takes part, activity, seeds, and every figure of the record except the "
    "released models: losses, failures, cohort sizes, test and attack figures, and what is chosen "
    "by them",
)
"""Sentences for whoever reads a claim."""

FOLLOW = "rates or noise follow"
"""In every sentence about a run whose rates or noise follow other things than activity."""

Reads = Literal["activity", "releases", "private"]
"""What rates or noise multipliers depend on: activity and public constants; released models as
well; or signals of devices that no noise was added to."""

READS: tuple[Reads, ...] = ("activity", "releases", "private")
"""From the most to the least that can be claimed."""


def weakest(reads: Iterable[Reads]) -> Reads:
    """What a run reads whose parts read these.

    Example:
      >>> weakest(["activity", "private", "releases"]), weakest([])
      ('private', 'activity')
    """
    return max(reads, key=READS.index, default="activity")


def reads_of(reader: object) -> Reads:
    """What something declares to read, by an attribute `reads`; "activity" where it has none."""
    return getattr(reader, "reads", "activity")
