"""Who is attacked: examples or devices of which a fair coin decided whether they are trained on.

Before training a panel is chosen, without looking at any loss, and one independent fair coin a
member of it decides whether it is in. What is out keeps its slot as a null record
(`Population.nulled`): activity, rates, weights, local steps and divisors are those of the
population before the coins, so that a coin changes nothing but the records it decides. A slot is
the same in every period and under every rule of retention: what a device holds is a pure function
of (seed, device, period, keep), which reads no content.

    panel = example_panel(people, seed=7)
    Simulation(population=panel.applied(people), ...)

Members are spread over three groups of devices, light, middle and heavy, that hold a third of the
training utterances each. The coins are the auditor's secret: whoever attacks must not see them.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedsim.population.examples import Examples, concatenate
from fedsim.population.population import Population
from fedsim.rng import stream

GROUPS = ("light", "middle", "heavy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Members with their coins; m members, scored on n training examples.

    Attributes:
      unit: what a coin decides, an "example" or a whole "device".
      rows: (n,) scored examples, as indices into a population's training examples (device by
        device, in the order of `train`); increasing.
      member: (n,) which member each row belongs to.
      device: (m,) device of each member.
      group: (m,) index into `GROUPS`.
      included: (m,) bool, how the coins fell.
    """

    unit: Literal["example", "device"]
    rows: np.ndarray
    member: np.ndarray
    device: np.ndarray
    group: np.ndarray
    included: np.ndarray

    def __len__(self) -> int:
        return len(self.included)

    def looks(self, present: np.ndarray) -> list[np.ndarray]:
        """Whom to look at: those present of the whole panel, then of each of `GROUPS`.

        Args:
          present: (m,) bool.

        Returns:
          (1 + groups,) of (m,) bool.
        """
        return [present, *(present & (self.group == k) for k in range(len(GROUPS)))]

    def applied(self, population: Population) -> Population:
        """The population in which members whose coin fell out are null records.

        Args:
          population: the one the panel was chosen from, cut in any way.
        """
        return population.nulled(self.excluded(population))

    def excluded(self, population: Population) -> np.ndarray:
        """Training examples that the coins take out, shape (training examples,) bool."""
        starts = population.starts
        out = np.zeros(starts[-1], bool)
        if self.unit == "example":
            out[self.rows[~self.included[self.member]]] = True
        else:
            for device in self.device[~self.included].tolist():
                out[starts[device] : starts[device + 1]] = True
        return out

    def examples(self, population: Population) -> Examples:
        """The scored examples with their content, whatever the coins say; n of them.

        Args:
          population: before `applied`.
        """
        starts = population.starts
        owner = np.searchsorted(starts, self.rows, side="right") - 1
        parts = []
        for device in np.unique(owner).tolist():
            rows = self.rows[owner == device] - starts[device]
            parts.append(population.train(device).take(rows))
        return concatenate(parts)

    def per_member(self, scores: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Mean score of each member over the rows that count.

        Args:
          scores: (n,) of the rows.
          counted: (n,) bool.

        Returns:
          (m,), NaN for a member none of whose rows counts.
        """
        rows = np.bincount(self.member[counted], minlength=len(self))
        sums = np.bincount(self.member[counted], scores[counted], minlength=len(self))
        return np.divide(sums, rows, out=np.full(len(self), np.nan), where=rows > 0)

    def redrawn(self, seed: int, number: int) -> "Panel":
        """The same members under other coins: the training data of reference model `number`.

        Args:
          seed: the run's.
          number: from 1.
        """
        coins = stream(seed, "panel", round=number).random(len(self)) < 0.5
        return replace(self, included=coins)

    def arrays(self) -> dict[str, np.ndarray]:
        """What panel.npz holds."""
        return {
            "unit": np.array(self.unit),
            "rows": self.rows,
            "member": self.member,
            "device": self.device,
            "group": self.group,
            "included": self.included,
        }
