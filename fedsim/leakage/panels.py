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

from fedsim.errors import require
from fedsim.population.examples import Examples, concatenate
from fedsim.population.population import Population
from fedsim.rng import stream

GROUPS = ("light", "middle", "heavy")

SCORED_ROWS = 16
"""Utterances that a whole device is scored on at most."""


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


def example_panel(population: Population, *, seed: int, size: int = 500) -> Panel:
    """A panel of training utterances, as many from each activity group.

    Args:
      population: cut in any way, without null records.
      seed: the run's.
      size: members; where a group has too few, the others fill up.

    Raises:
      ConfigError: the population has fewer examples, or null records already.

    Example:
      >>> people = Population.load("home", devices=20)
      >>> panel = example_panel(people, seed=0, size=30)
      >>> len(panel), np.bincount(panel.group).tolist(), int(panel.applied(people).null.sum())
      (30, [10, 10, 10], 15)
    """
    require(
        population.null is None,
        "the population has null records already; choose the panel before any are nulled",
    )
    starts, groups = population.starts, activity_groups(population)
    held = np.diff(starts)
    devices = [np.flatnonzero(groups == k) for k in range(len(GROUPS))]
    shares = _shares([int(held[of].sum()) for of in devices], size, "training examples")
    draw = stream(seed, "panel-members")
    rows = []
    for of, share in zip(devices, shares, strict=True):
        # By rank within the group: a list of all its examples may have millions of entries.
        ends = np.cumsum(held[of])
        rank = draw.choice(int(held[of].sum()), share, replace=False)
        at = np.searchsorted(ends, rank, side="right")
        rows.append(starts[of[at] + 1] - ends[at] + rank)
    row = np.sort(np.concatenate(rows))
    device = np.searchsorted(starts, row, side="right") - 1
    return _panel("example", groups, seed, row, np.arange(size), device)


def device_panel(population: Population, *, seed: int, size: int) -> Panel:
    """A panel of whole devices, as many from each activity group; those without data are left out.

    Args:
      population: cut in any way.
      seed: the run's.
      size: members; where a group has too few, the others fill up.

    Raises:
      ConfigError: fewer devices hold data.
    """
    starts, groups = population.starts, activity_groups(population)
    held = np.diff(starts)
    devices = [np.flatnonzero((groups == k) & (held > 0)) for k in range(len(GROUPS))]
    shares = _shares([len(of) for of in devices], size, "devices with data")
    draw = stream(seed, "panel-members")
    device = np.sort(
        np.concatenate(
            [
                draw.choice(of, share, replace=False)
                for of, share in zip(devices, shares, strict=True)
            ]
        )
    )
    rows = [
        np.linspace(starts[d], starts[d + 1] - 1, min(held[d], SCORED_ROWS)).astype(np.int64)
        for d in device.tolist()
    ]
    member = np.repeat(np.arange(size), [len(part) for part in rows])
    return _panel("device", groups, seed, np.concatenate(rows), member, device)


def activity_groups(population: Population) -> np.ndarray:
    """Index into `GROUPS` of each device, (devices,): thirds of all utterances, lightest first.

    A device that straddles a border belongs where the middle of its utterances lies; ties in
    activity go by device id.

    Example:
      >>> activity_groups(Population.load("home", devices=5)).tolist()
      [1, 0, 0, 0, 2]
    """
    totals = population.counts.sum(axis=1)
    order = np.argsort(totals, kind="stable")
    ends = np.cumsum(totals[order])
    middle = ends - totals[order] / 2
    groups = np.empty(len(totals), np.int64)
    groups[order] = np.minimum(middle * len(GROUPS) // max(ends[-1], 1), len(GROUPS) - 1)
    return groups


def _panel(
    unit: Literal["example", "device"],
    groups: np.ndarray,
    seed: int,
    rows: np.ndarray,
    member: np.ndarray,
    device: np.ndarray,
) -> Panel:
    """Groups looked up and coins thrown."""
    return Panel(
        unit=unit,
        rows=rows,
        member=member,
        device=device,
        group=groups[device],
        included=stream(seed, "panel").random(len(device)) < 0.5,
    )


def _shares(sizes: list[int], size: int, what: str) -> list[int]:
    """Members of each group, as equal as the groups' sizes allow."""
    total = sum(sizes)
    require(
        1 <= size <= total,
        f"the panel's size is {size}, but the population has {total} {what}; "
        f"choose between 1 and {total}",
    )
    shares, left = [0] * len(sizes), size
    # Smallest group first: what it lacks goes to the larger ones.
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    for done, k in enumerate(order):
        shares[k] = min(sizes[k], left // (len(sizes) - done))
        left -= shares[k]
    return shares
