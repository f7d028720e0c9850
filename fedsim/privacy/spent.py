"""What had privacy cost by the end of a round, for whom?

The claims of a run as a probe: it reads ledgers, which charge themselves, and remembers nothing.
Devices of most, median and least activity stand for heavy, middling and light users.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedsim.describe import describe
from fedsim.plan import FinishedRound
from fedsim.population import Population
from fedsim.privacy.claim import EVERY_CLAIM, FOLLOW, Reads, reads_of
from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.example_spent import ExamplePrivacy
from fedsim.privacy.filtered_ledger import FilteredLedger
from fedsim.privacy.release import DeviceLevel, Release
from fedsim.probes import Probe

SPREAD = 48
"""Devices, spread evenly over activity, whose exact epsilon is recorded at the end of a run."""

QUANTILES = (10, 25, 50, 75, 90, 100)
"""Percentiles, over devices, of the bound on a device's epsilon."""


def privacy_probe(strategy: Any, people: Population, example: ExamplePrivacy | None) -> Probe:
    """The probe that reports what a run's privacy has cost.

    Args:
      strategy: prepared.
      people: cut into the periods of the run.
      example: the account of the devices' own privacy, or None.
    """
    private: Any = getattr(strategy, "strategy", None)
    if not hasattr(private, "ledger"):
        return example or no_privacy
    totals = people.counts.sum(axis=1)
    holders = np.flatnonzero(totals)
    ranked = holders[np.argsort(-totals[holders], kind="stable")]
    device = DevicePrivacy(
        ledger=private.ledger,
        mechanism=private.mechanism,
        reads=reads_of(strategy),
        examples={
            name: int(ranked[round(place * (len(ranked) - 1))])
            for name, place in (("heavy", 0.0), ("middling", 0.5), ("light", 1.0))
            if len(ranked)
        },
        spread=ranked[np.unique(np.linspace(0, len(ranked) - 1, SPREAD).round().astype(int))]
        if len(ranked)
        else ranked,
    )
    return device if example is None else BothPrivacy(device=device, example=example)


def no_privacy(finished: FinishedRound) -> dict[str, Any]:
    """Without a mechanism every claim is infinite, for every observer."""
    infinite = float("inf")
    return {
        "privacy_unit": "none",
        "epsilon_max": infinite,
        "epsilon_median": infinite,
        "epsilon_participation_max": infinite,
        "epsilon_server_max": infinite,
        "example_epsilon_max": infinite,
        "example_epsilon_median": infinite,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class DevicePrivacy:
    """Device-level privacy spent, read off the ledger of the run's strategy.

    Attributes:
      ledger: every device's account.
      mechanism: with its noise and delta.
      examples: name -> device whose curve is drawn.
      spread: devices whose exact epsilon is recorded at the end.
      reads: what rates and noise depend on.
    """

    ledger: DeviceLedger | FilteredLedger
    mechanism: DeviceLevel
    examples: dict[str, int]
    spread: np.ndarray
    reads: Reads = "activity"

    @property
    def resolved(self) -> dict[str, Any]:
        """The mechanism as it runs, for start.json."""
        return describe(self.mechanism)

    @property
    def assumptions(self) -> list[str]:
        """Under what the figures hold, and what they do not cover."""
        found = [
            f"device-level epsilons are at delta {self.ledger.delta:g}, {self.ledger.assumption}",
            "epsilon_max is a claim before an observer of the released models; one who also sees "
            "who took part: epsilon_participation_max; the server sees raw updates: infinite",
            *EVERY_CLAIM,
        ]
        if self.reads == "private":
            found.append(
                f"{FOLLOW} private signals of devices, which no noise was added to: "
                "every epsilon is infinite from the first round on, although sums are noised"
            )
        if self.mechanism.secure_noise:
            found.append(
                "the noise on the devices' sum comes from the operating system; the run cannot be "
                "reproduced"
            )
        return found

    def __call__(self, finished: FinishedRound) -> dict[str, Any]:
        """Claims, the curves of single devices, and the distribution of bounds over all devices.

        With a filter also the largest and the upper median share of their budgets that devices were
        charged, which are no claims.
        """
        assert finished.plan is not None
        release: Release = finished.plan.mechanism
        ledger = self.ledger
        figures: dict[str, Any] = {
            "privacy_unit": "device",
            "delta": ledger.delta,
            **ledger.figures(),
            "privacy/clip_norm": release.clip_norm,
            "privacy/noise_multiplier": release.noise_multiplier,
            "privacy/effective_noise": release.effective_noise,
        }
        if isinstance(ledger, FilteredLedger):
            spent = np.sort(ledger.spent)
            figures |= {
                "privacy/budget_spent_max": float(spent[-1]),
                "privacy/budget_spent_median": float(spent[len(spent) // 2]),
            }
        chosen = ledger.epsilons(np.array(list(self.examples.values())))
        figures |= {
            f"privacy/epsilon_{name}": float(e)
            for name, e in zip(self.examples, chosen, strict=True)
        }
        bounds = np.percentile(ledger.bounds(), QUANTILES, method="higher")
        return figures | {
            f"privacy/bound_p{q}": float(b) for q, b in zip(QUANTILES, bounds, strict=True)
        }

    def files(self) -> dict[str, dict[str, np.ndarray]]:
        """ledger.npz: a bound on the epsilon of every device, exact values of some, and the worst.

        `epsilon` are those of `devices`; `worst` is the device that nobody's exceeds. With a filter
        also `budget_spent`, the share of its budget that each device was charged.
        """
        spent = {}
        if isinstance(self.ledger, FilteredLedger):
            spent["budget_spent"] = self.ledger.spent
        return {
            "ledger": {
                "epsilon_bound": self.ledger.bounds(),
                "devices": self.spread,
                "epsilon": self.ledger.epsilons(self.spread),
                "worst": np.array(self.ledger.worst()),
                "curves": np.array(list(self.examples.values())),
                "delta": np.array(self.ledger.delta),
                **spent,
            }
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class BothPrivacy:
    """Device-level and example-level privacy of one run, each by its own ledger.

    Attributes:
      device: of the server's sum.
      example: of the devices' own steps.
    """

    device: DevicePrivacy
    example: ExamplePrivacy

    @property
    def resolved(self) -> dict[str, Any]:
        """Both mechanisms as they run."""
        return self.device.resolved | self.example.resolved

    @property
    def assumptions(self) -> list[str]:
        """Those of both."""
        return list(dict.fromkeys([*self.device.assumptions, *self.example.assumptions]))

    def __call__(self, finished: FinishedRound) -> dict[str, Any]:
        """The figures of both."""
        return self.device(finished) | self.example.figures(finished) | {"privacy_unit": "both"}

    def files(self) -> dict[str, dict[str, np.ndarray]]:
        """ledger.npz with the arrays of both."""
        return {"ledger": self.device.files()["ledger"] | self.example.files()["ledger"]}

    def state_dict(self) -> dict[str, Any]:
        """The example ledger's; the strategy keeps the other."""
        return self.example.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved example ledger."""
        self.example.load_state_dict(state)
