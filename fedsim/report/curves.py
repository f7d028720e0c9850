"""What a group of runs that differ only in the seed measured, and after how much work.

A run is a `fedsim.record.Run`. Work is counted three ways: rounds, examples processed on the
devices, and device participations; policies that draw heavy devices more often process more
examples in the same rounds, so a comparison names the axis it was made on. `examples_served`
of `fedsim.training.batches` is the one definition of examples processed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedsim.report.statistics import Estimate, estimate
from fedsim.training.batches import examples_served

if TYPE_CHECKING:
    from fedsim.record import Run

Axis = Literal["rounds", "examples", "participations"]

ACCURACY = "intent_accuracy"
"""The figure that policies are compared by."""

CENTRAL = "central"
"""Selection of a group of runs without devices: the model trained on all data at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs of one row of a table: the same options, one run a seed.

    Attributes:
      setting: "static" or "continual".
      selection: name of the policy, or `CENTRAL`.
      weighting: as resolved, "" without devices.
      variant: what sets the row apart from the policy as it is, such as "8 local steps", or "".
      runs: one per seed.
    """

    setting: str
    selection: str
    weighting: str
    variant: str = ""
    runs: Sequence["Run"]

    @property
    def label(self) -> str:
        """The policy and what is special about it."""
        return f"{self.selection}, {self.variant}" if self.variant else self.selection

    def finals(self, key: str) -> dict[int, float]:
        """The last measured value of each seed's run; runs that measured none are left out."""
        found = ((run.config["seed"], measured(run, key)[1]) for run in self.runs)
        return {seed: float(values[-1]) for seed, values in found if len(values)}

    def final(self, key: str) -> Estimate | None:
        """Mean over seeds of the last measured value, with its interval."""
        return estimate(list(self.finals(key).values()))


def figure(line: dict[str, Any], key: str) -> float | None:
    """One figure of one round's line; a key with a slash is looked up among the probes' figures.

    Example:
      >>> figure({"slot_f1": 0.5, "figures": {"unseen/exact_match": 0.4}}, "unseen/exact_match")
      0.4
    """
    return line.get("figures", {}).get(key) if "/" in key else line.get(key)


def measured(run: "Run", key: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a figure was measured and what it was.

    Returns:
      Indices into `run.rounds`, shape (measurements,), and values, shape (measurements,).
    """
    values = [figure(line, key) for line in run.rounds]
    at = [index for index, value in enumerate(values) if value is not None]
    return np.array(at, dtype=int), np.array([values[index] for index in at], dtype=float)


def work(run: "Run", axis: Axis) -> np.ndarray:
    """Work done by the end of each round, shape (rounds,).

    Examples are those served to the optimizers of the devices that were drawn, whether or not a
    reply arrived. Where the record names no batches (central training, a script's own
    `ClientApp`), each example of a line counts once.
    """
    if axis == "rounds":
        return np.array([line["round"] for line in run.rounds], dtype=float)
    if axis == "participations":
        return np.cumsum([float(line["cohort_size"] or 0) for line in run.rounds])
    client = run.config.get("simulation", {}).get("client", {})
    if "batch_size" not in client:
        return np.cumsum([float(line["cohort_examples"] or 0) for line in run.rounds])
    drawn, offsets = run.cohorts["drawn"], run.cohorts["drawn_offsets"]
    periods = np.array([line["period"] for line in run.rounds]) - 1
    held = np.asarray(run.devices["activity"])[np.repeat(periods, np.diff(offsets)), drawn]
    served = examples_served(
        held, client["batch_size"], client["local_epochs"], client["local_steps"]
    )
    return np.concatenate([[0.0], np.cumsum(served)])[offsets[1:]]


def curve(run: "Run", key: str, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """A learning curve: work done and the figure, both of shape (measurements,)."""
    at, values = measured(run, key)
    return work(run, axis)[at], values


def value_after(run: "Run", key: str, axis: Axis, amount: float) -> float | None:
    """The figure after an amount of work, between measurements by straight lines.

    None where the amount lies before the first measurement or after the last.
    """
    done, values = curve(run, key, axis)
    if not len(done) or not done[0] <= amount <= done[-1]:
        return None
    return float(np.interp(amount, done, values))


def band(group: Group, key: str, axis: Axis) -> tuple[np.ndarray, list[Estimate]]:
    """A group's learning curve with intervals over seeds.

    Returns:
      Points on the axis, shape (points,), and an estimate at each. Over rounds the points are the
      measured rounds; on the other axes, where seeds differ, they span what all seeds measured.
    """
    curves = [curve(run, key, axis) for run in group.runs]
    curves = [(done, values) for done, values in curves if len(done)]
    if not curves:
        return np.zeros(0), []
    first, last = max(done[0] for done, _ in curves), min(done[-1] for done, _ in curves)
    if axis == "rounds":
        points = np.unique(np.concatenate([done for done, _ in curves]))
        points = points[(points >= first) & (points <= last)]
    else:
        points = np.linspace(first, max(first, last), max(len(done) for done, _ in curves))
    values = np.array([np.interp(points, done, values) for done, values in curves])
    return points, [e for column in values.T if (e := estimate(column.tolist()))]
