"""How is a broken mechanism caught by looking at it? General checks that know of no particular bug.

A catcher takes a mechanism and says what is wrong with it, or None. The checks of sums and of noise
see a mechanism as steps: worlds of raw contributions go in (a row for each device or example, null
where it is zero), noised sums come out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from scipy.stats import chi2, norm

from fedsim.engine.cohort import CohortGrid
from fedsim.engine.flower import quiet, task_identity, to_parameters, to_record
from fedsim.models.joint import linear
from fedsim.models.tape import Blocks
from fedsim.privacy import Gaussian
from fedsim.privacy.release import DeviceLevel
from fedsim.rng import stream
from fedsim.training.dpsgd import DPSGD
from strategies import PrivateAggregation, Selective, UniformSelection

UNITS, SIZE = 4, 40
"""Devices or examples of a step, and coordinates of what each contributes."""

NOBODY = np.zeros((UNITS, SIZE))
ERROR = 1e-6
"""Probability that one statistic of sound noise raises an alarm."""


class Steps(Protocol):
    """A mechanism that is released step by step."""

    @property
    def spread(self) -> float:
        """Standard deviation of the noise on a sum, as it is stated."""

    @property
    def event(self) -> Gaussian:
        """One step, as it is accounted for whoever weighs most."""

    def sums(self, worlds: Sequence[np.ndarray], seed: int, *, noise: bool) -> np.ndarray:
        """Released sums, (steps, coordinates), from raw contributions (UNITS, SIZE) each."""


@dataclass(frozen=True, kw_only=True)
class DeviceSteps:
    """Rounds of `PrivateAggregation`; all devices come, and weigh what they hold.

    Attributes:
      level: the mechanism.
      strategy: `PrivateAggregation`, or a broken one.
    """

    level: DeviceLevel
    strategy: type[PrivateAggregation] = PrivateAggregation

    @property
    def spread(self) -> float:
        return self.level.noise_multiplier * self._selective(self.level, 1)[1].sensitivity

    @property
    def event(self) -> Gaussian:
        return Gaussian(noise_multiplier=self.level.noise_multiplier)

    def sums(self, worlds, seed, *, noise):
        level = self.level if noise else replace(self.level, noise_multiplier=0.0)
        selective, release = self._selective(level, len(worlds))
        found = []
        for round, raw in enumerate(worlds, start=1):
            plan = selective.plan(round, 0, HOLDS, seed)
            updates = {d: torch.from_numpy(raw[d]) for d in range(UNITS) if raw[d].any()}
            found.append(one_round(selective, plan, updates).numpy() * release.denominator)
        return np.array(found)

    def _selective(self, level: DeviceLevel, rounds: int):
        strategy = self.strategy(FedAvg(), level)
        selective = Selective(strategy, UniformSelection(cohort=UNITS), weighting="examples")
        selective.prepare([HOLDS], [rounds])
        return selective, selective.plan(1, 0, HOLDS, 0).mechanism


HOLDS = np.array([40, 2, 10, 40])
"""Examples of each device: the first, which worlds differ in, weighs most."""


def one_round(selective: Selective, plan: Any, updates: dict[int, torch.Tensor]) -> torch.Tensor:
    """What a round moves a model of zeros by, when these devices reply with these updates."""
    sent = {"w": torch.zeros(SIZE, dtype=torch.float64)}
    with quiet(), task_identity():
        messages = selective.configure_train(
            plan.round, to_record(sent), ConfigRecord(), CohortGrid(None, plan)
        )
        replies = [
            Message(
                RecordDict({"arrays": to_record({"w": update}), "metrics": MetricRecord()}),
                reply_to=message,
            )
            for message in messages
            if (update := updates.get(message.metadata.dst_node_id)) is not None
        ]
        record, _ = selective.aggregate_train(plan.round, replies)
    return to_parameters(record)["w"]


@dataclass(frozen=True, kw_only=True)
class ExampleSteps:
    """Local steps of DP-SGD on a model whose gradients are whatever one likes.

    Attributes:
      procedure: with `linear_losses`.
    """

    procedure: DPSGD

    @property
    def spread(self) -> float:
        return self.procedure.noise_multiplier * self.procedure.clip_norm

    @property
    def event(self) -> Gaussian:
        own = self.procedure
        return Gaussian(noise_multiplier=own.noise_multiplier, sensitivity=own.clipping.sensitivity)

    def sums(self, worlds, seed, *, noise):
        own = self.procedure if noise else replace(self.procedure, noise_multiplier=0.0)
        start = {n: torch.zeros(s, dtype=torch.float64) for n, s in (("w", (1, SIZE)), ("b", (1,)))}
        state, found = own.start(start, stream(seed, "noise")), []
        for raw in worlds:
            before = torch.cat([p.flatten() for p in state["parameters"].values()])
            state = own.step(state, _batch(raw))
            after = torch.cat([p.flatten() for p in state["parameters"].values()])
            scale = float(own.clipping.expected(torch.tensor(float(UNITS))))
            found.append(((before - after) * scale / own.learning_rate).numpy())
        return np.array(found)


def linear_losses(parameters, batch):
    """<w, x> + b: an example's gradient is (x, 1)."""
    return linear(batch["x"], parameters["w"], parameters["b"], Blocks(len(batch["x"]))).squeeze(-1)


def _batch(raw: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        "x": torch.from_numpy(raw),
        "weight": torch.from_numpy(raw.any(axis=1).astype(np.float64)),
        "record": torch.arange(UNITS),
        "size": torch.tensor(float(UNITS), dtype=torch.float64),
    }


def sensitivity_search(mechanism: Steps) -> str | None:
    """Looks for a unit whose absence moves a sum, without noise, further than is accounted for."""
    allowed = mechanism.event.sensitivity * mechanism.spread / mechanism.event.noise_multiplier
    most = 0.0
    for here, there in neighbours():
        one, other = (mechanism.sums([world], 0, noise=False)[0] for world in (here, there))
        most = max(most, float(np.linalg.norm(one - other)))
    # The bound is sharp, so the search must come near it to mean anything.
    assert most > 0.99 * allowed / mechanism.event.sensitivity
    if most <= allowed * (1 + 1e-6):
        return None
    return f"one unit moves the sum by {most:.3g}, but {allowed:.3g} is accounted for"


def neighbours() -> list[tuple[np.ndarray, np.ndarray]]:
    """Worlds of every mix of sizes, with the first unit and with it null; it may point anywhere."""
    found = []
    sizes = (1e-3, 1.0, 1e3)
    for number, (crowd, own, turned) in enumerate(product(sizes, (*sizes, 1e6), (False, True))):
        here = stream(number, "worlds").standard_normal((UNITS, SIZE))
        here[1:] *= crowd
        # Against the others is where sums that are clipped as a whole turn round.
        here[0] = own * (-here[1:].sum(axis=0) / crowd if turned else here[0])
        there = here.copy()
        there[0] = 0.0
        found.append((here, there))
    return found


def noise_statistics(mechanism: Steps, steps: int = 24) -> str | None:
    """Chi-squared of every step's variance, and correlations of all pairs of steps.

    Every other step has nobody in it. All alarms together have an error rate of 2 ERROR: ERROR for
    each kind, shared out among its statistics (the correlations' normal approximation included:
    they are judged after Fisher's transformation).
    """
    worlds = [NOBODY if step % 2 else neighbours()[12][0] for step in range(steps)]
    quiet_, loud = (mechanism.sums(worlds, 3, noise=noise) for noise in (False, True))
    noises = (loud - quiet_) / mechanism.spread
    size = noises.shape[1]
    for step, square in enumerate((noises**2).sum(axis=1)):
        tail = 2 * min(chi2.cdf(square, size), chi2.sf(square, size))
        if tail < ERROR / steps:
            who = "nobody" if step % 2 else "somebody"
            measured = np.sqrt(square / size)
            return f"with {who} in a step its noise is {measured:.2g} of what is accounted for"
    unlike = noises + 1e-12 * np.arange(size)
    pairs = np.corrcoef(unlike)[np.triu_indices(steps, 1)].clip(-1 + 1e-12, 1 - 1e-12)
    surest = np.abs(np.arctanh(pairs)).max() * np.sqrt(size - 3)
    if 2 * norm.sf(surest) < ERROR / len(pairs):
        return f"noises of two steps have a correlation of {np.abs(pairs).max():.2g}"
    return None
