"""Which examples or devices are attacked?

A panel is spread over three groups of devices, light, middle and heavy, which hold a third of the
training utterances each: the question is whether the active ones are more exposed. Within a group
every candidate is equally likely, and nothing is known of it but how much its device holds.
"""

from typing import Literal

import numpy as np

from fedsim.errors import require
from fedsim.leakage.panel import GROUPS, Panel
from fedsim.population.population import Population
from fedsim.rng import stream

SCORED_ROWS = 16
"""Utterances that a whole device is scored on at most."""


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
