"""What does drawing active devices more often cost each example, under DP-SGD on the devices?

There a light device pays through its sampling rate (a batch shows all that it holds) and a heavy
one through its participations. No model is needed to know it: who is drawn is a pure function of
the seed, and a participation costs what it costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class PricedExamples:
    """One row: a policy's draws under one noise multiplier.

    Attributes:
      setting: "static" or "continual".
      selection: the policy's label, and the cure's.
      weighting: as resolved.
      held: "both", "noise" or "epsilon", as in `fedsim.report.price`.
      noise_multiplier: of every local step.
      effective_noise: per coordinate of the mean update, in units of clip norm x learning rate.
      delta: of the epsilons.
      activity: (devices,) examples each holds, mean over periods.
      epsilons: (devices,) realised cost; 0 for a device that never came.
    """

    setting: str
    selection: str
    weighting: str
    held: str
    noise_multiplier: float
    effective_noise: float
    delta: float
    activity: np.ndarray
    epsilons: np.ndarray

    def tenths(self) -> tuple[float, float]:
        """Median epsilons of the tenths of devices that hold least and most."""
        holders = np.flatnonzero(self.activity)
        ranked = holders[np.argsort(self.activity[holders], kind="stable")]
        size = max(1, len(ranked) // 10)
        light, heavy = self.epsilons[ranked[:size]], self.epsilons[ranked[-size:]]
        return _upper_median(light), _upper_median(heavy)

    @property
    def imbalance(self) -> float:
        """How many times more the worst device pays than the median one; infinite if that is 0."""
        middle = _upper_median(self.epsilons)
        return float(self.epsilons.max()) / middle if middle > 0 else float("inf")

    def row(self) -> dict[str, Any]:
        """Its cells."""
        light, heavy = self.tenths()
        return {
            "unit": "example",
            "setting": self.setting,
            "selection": self.selection,
            "weighting": self.weighting,
            "held": {"both": "noise, epsilon"}.get(self.held, self.held),
            "noise_multiplier": self.noise_multiplier,
            "effective_noise": self.effective_noise,
            "epsilon_max": float(self.epsilons.max()),
            "worst_activity": float(self.activity[self.epsilons.argmax()]),
            "epsilon_heavy": heavy,
            "epsilon_median": _upper_median(self.epsilons),
            "epsilon_light": light,
            "epsilon_participation_max": float(self.epsilons.max()),
        }


def example_notes(rows: Sequence[PricedExamples]) -> list[str]:
    """Who pays under which policy, and how the rows are to be read."""
    if not rows:
        return []
    return [
        _who_pays(rows, rows[0].setting),
        f"Rows of unit example are DP-SGD on the devices, at delta {rows[0].delta:g}: the realised "
        "cost of the draws of the first seed, which holds before all observers; a device is "
        "charged every participation in full. Heaviest and lightest are medians over the tenths "
        "of the devices that hold most and least. Effective noise is here in units of clip norm x "
        "learning rate. They are priced without training, so they have no accuracy; all other "
        "rows are trained.",
    ]


def _who_pays(rows: Sequence[PricedExamples], setting: str) -> str:
    """Who pays under uniform selection and by activity, and which policy is nearest to even."""
    own = [row for row in rows if row.setting == setting and row.held in ("both", "noise")]
    even = min(own, key=lambda row: row.imbalance)
    told = [_told(row) for row in own if row is even or row.selection in ("uniform", "activity")]
    finding = f"{even.selection} spreads the cost most evenly"
    if even.imbalance == float("inf"):
        finding = "so few draws reach no median device, and which policy is most even is not seen"
    return f"At example level and equal noise ({setting}) {'; '.join(told)}: {finding}."


def _told(row: PricedExamples) -> str:
    light, heavy = row.tenths()
    worst = f"the worst device pays {row.epsilons.max():.3g}"
    if row.imbalance < float("inf"):
        worst += f", {row.imbalance:.1f} times the median one"
    else:
        worst += ", the median one never came"
    return (
        f"{row.selection} selection costs the tenth of devices with least data {light:.3g}, that "
        f"with most {heavy:.3g} (medians), and {worst}"
    )


def _upper_median(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.5, method="higher"))
