"""Which drawn devices still take part under example-level privacy, and what has it cost each?

Every device that is drawn is charged its local steps at once, whatever becomes of it afterwards.
One that has been charged as often as it may take part refuses: it sees neither the model nor its
own data, sends nothing, and is charged nothing more. Who else is drawn does not depend on that.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedsim.describe import describe
from fedsim.plan import FinishedRound
from fedsim.population import Population
from fedsim.privacy.claim import EVERY_CLAIM, FOLLOW, Reads
from fedsim.privacy.edp_sgd import naive_reading
from fedsim.privacy.example_ledger import ExampleLedger
from fedsim.privacy.example_level import ExampleLevel, LocalSteps
from fedsim.privacy.rounding import TAU

REFUSED = "refused"
"""Stage of a device that was drawn and has taken part as often as it may."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExamplePrivacy:
    """Charges participations when they are drawn; as a probe, says what they have cost.

    Attributes:
      mechanism: with its noise and delta.
      local: how devices go through their examples.
      people: cut into the periods of the run.
      ledger: every device's account.
      naive: the account that a naive reading of the mechanism would keep, where it differs.
      remarks: sentences for a reader of the record.
      reads: what decides who takes part. Unless that is activity, the first charge ends every
        claim: how often a device takes part follows from its data, through models or signals.
    """

    mechanism: ExampleLevel
    local: LocalSteps
    people: Population
    ledger: ExampleLedger
    naive: ExampleLedger | None = None
    remarks: Sequence[str] = ()
    reads: Reads = "activity"

    def charge(self, drawn: Iterable[int], period: int) -> set[int]:
        """Charge the devices of a round, and say which of them refuse.

        Args:
          drawn: device ids.
          period: from 0.
        """
        if self.reads != "activity":
            for ledger in filter(None, (self.ledger, self.naive)):
                ledger.void()
        most = self.mechanism.max_participations
        activity = self.people.activity(period)
        refused = set()
        for device in drawn:
            if most is not None and self.ledger.participations(device) >= most:
                refused.add(device)
                continue
            held = int(activity[device])
            self.spend(device, 0, self.local.steps(held), self.local.rate(held))
        return refused

    def spend(self, device: int, first: int, steps: int, rate: float) -> None:
        """Charge steps of one participation; the arguments are those of `ExampleLevel.events`."""
        self.ledger.charge(device, self.mechanism.events(first, steps, rate))
        if self.naive is not None:
            read = naive_reading(self.mechanism)
            self.naive.charge(device, read.events(first, steps, rate))

    @property
    def resolved(self) -> dict[str, Any]:
        """The mechanism as it runs, for start.json."""
        return {"example": describe(self.mechanism)}

    @property
    def assumptions(self) -> list[str]:
        """Under what the figures hold, and what is unusual about the devices."""
        held = np.array([self.people.activity(p) for p in range(self.people.periods)])
        found = [
            f"example-level epsilons are at delta {self.ledger.delta:g}; neighbours differ in the "
            "content of one example, and how many examples a device holds is treated as public",
            "example_epsilon_max is the realised cost of the worst device, every drawn "
            "participation charged in full, and holds before the server too",
            *EVERY_CLAIM,
        ]
        if self.reads != "activity":
            what = "private signals" if self.reads == "private" else "what was released"
            found[1] = (
                f"{FOLLOW} {what}, and with that how often each device pays; no "
                "realised cost is a claim then, and example_epsilon_max is infinite"
            )
        light = int(((held > 0) & (held < self.local.batch_size)).any(axis=0).sum())
        if light:
            found.append(
                f"{light} devices hold fewer than {self.local.batch_size} examples in some period; "
                "each of their steps sees all of them, with no amplification by sampling"
            )
        empty = int((held == 0).any(axis=0).sum())
        if empty:
            found.append(
                f"{empty} devices hold nothing in some period; drawn there, they reply with noise"
            )
        return [*found, *self.caveats, *self.remarks]

    @property
    def caveats(self) -> list[str]:
        """What passes and noise are assumed to be, and what the naive figure is."""
        found = []
        if tau := TAU[self.mechanism.precision]:
            found.append(
                f"passes run in {self.mechanism.precision}, norms and sums in float32; "
                f"every step is priced as if a clipped gradient exceeded the clip norm by {tau:.2g}"
                " of it, which bounds what rounding adds; that the passes of the others in a batch "
                "are rounded alike without the example is assumed, and not proved"
            )
        if self.mechanism.secure_noise:
            found.append(
                "noise on examples' gradients comes from the operating system; the run cannot be "
                "reproduced"
            )
        if self.naive is not None:
            found.append(
                "privacy/example_epsilon_naive is what a naive reading would claim (each example "
                "clipped by itself, all noise as at the first step); it is no bound on anything"
            )
        return found

    def figures(self, finished: FinishedRound) -> dict[str, Any]:
        """What examples have paid so far, and how many devices refused this round."""
        refused = sum(failure.stage == REFUSED for failure in finished.failures)
        beside = {}
        if self.naive is not None:
            beside["privacy/example_epsilon_naive"] = self.naive.figures()["example_epsilon_max"]
        return {
            "delta": self.ledger.delta,
            **self.ledger.figures(),
            **beside,
            "privacy/example_noise_multiplier": self.mechanism.noise_multiplier,
            "privacy/example_clip_norm": self.mechanism.clip_norm,
            "privacy/refused": refused,
        }

    def __call__(self, finished: FinishedRound) -> dict[str, Any]:
        """As a probe of a run whose devices as such are not protected."""
        infinite = float("inf")
        return {
            "privacy_unit": "example",
            "epsilon_max": infinite,
            "epsilon_median": infinite,
            "epsilon_participation_max": infinite,
            "epsilon_server_max": infinite,
            **self.figures(finished),
        }

    def files(self) -> dict[str, dict[str, np.ndarray]]:
        """ledger.npz: a bound on the epsilon of every device, and how often it took part."""
        taken = [self.ledger.participations(device) for device in range(self.ledger.devices)]
        return {
            "ledger": {
                "example_epsilon_bound": self.ledger.bounds(),
                "participations": np.array(taken),
                "delta": np.array(self.ledger.delta),
            }
        }

    def state_dict(self) -> dict[str, Any]:
        """Those of the ledgers."""
        beside = {} if self.naive is None else {"naive": self.naive.state_dict()}
        return self.ledger.state_dict() | beside

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved ledgers."""
        self.ledger.load_state_dict(state)
        if self.naive is not None:
            self.naive.load_state_dict(state["naive"])


def example_privacy(
    trainer: Any, people: Population, reads: Reads = "activity"
) -> ExamplePrivacy | None:
    """The account of a trainer's example-level privacy, or None without any.

    Args:
      trainer: a `fedsim.training.LocalTrainer`, or whatever else trains devices.
      people: cut into the periods of the run.
      reads: what decides who takes part.
    """
    mechanism: ExampleLevel | None = getattr(trainer, "privacy", None)
    if mechanism is None:
        return None
    own = account(mechanism, trainer.local, people, people.devices, trainer.remarks)
    return replace(own, reads=reads)


def account(
    mechanism: ExampleLevel,
    local: LocalSteps,
    people: Population,
    devices: int,
    remarks: Sequence[str] = (),
) -> ExamplePrivacy:
    """A fresh account of so many devices.

    Args:
      mechanism: with its noise and delta.
      local: how devices go through their examples.
      people: cut into the periods of the run.
      devices: ledgers to keep.
      remarks: as in `ExamplePrivacy`.
    """
    assert mechanism.delta is not None
    usual = math.isclose(mechanism.clipping.sensitivity, 1.0) and mechanism.decay.factor == 1
    return ExamplePrivacy(
        mechanism=mechanism,
        local=local,
        people=people,
        ledger=ExampleLedger(devices, mechanism.delta),
        naive=ExampleLedger(devices, mechanism.delta) if not usual else None,
        remarks=remarks,
    )
