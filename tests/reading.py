"""Policies and noise that follow what was released, or what devices reply."""

from dataclasses import dataclass, field

import numpy as np

from strategies import ActivitySelection, UniformSelection
from strategies.selection import capped_rates


def flat(parameters) -> np.ndarray:
    return np.concatenate([p.numpy().ravel() for p in parameters.values()]).astype(np.float64)


@dataclass(kw_only=True)
class UniformUntilItSlows:
    """Uniform, until the released model moves less in a round than `slow`; by activity after."""

    cohort: float
    slow: float
    settled: bool = False
    _last: np.ndarray | None = field(default=None, repr=False)
    label = "uniform until it slows"
    natural_weighting = "equal"
    reads = "releases"

    def rates(self, activity):
        policy = ActivitySelection if self.settled else UniformSelection
        return policy(cohort=self.cohort).rates(activity)

    def released(self, round, parameters):
        now = flat(parameters)
        if self._last is not None:
            self.settled = self.settled or bool(np.linalg.norm(now - self._last) < self.slow)
        self._last = now
        # Whoever writes into what it is handed changes nothing of the run.
        for p in parameters.values():
            p.zero_()

    def state_dict(self):
        return {"settled": self.settled, "last": self._last}

    def load_state_dict(self, state):
        self.settled, self._last = state["settled"], state["last"]


@dataclass(kw_only=True)
class HighestLosses:
    """In proportion to the last loss of each device, as power-of-choice prefers high ones."""

    cohort: float
    losses: dict = field(default_factory=dict)
    label = "losses"
    natural_weighting = "equal"
    reads = "private"

    def rates(self, activity):
        scores = np.array([self.losses.get(d, 1.0) for d in range(len(activity))])
        return capped_rates(np.where(activity > 0, scores, 0.0), self.cohort)

    def replied(self, round, metrics):
        self.losses |= {device: float(said["train_loss"]) for device, said in metrics.items()}

    def state_dict(self):
        return {"losses": self.losses}

    def load_state_dict(self, state):
        self.losses = state["losses"]


@dataclass(kw_only=True)
class NoiseByMovement:
    """More noise after a round in which the released model moved less than `slow`."""

    sigma: float
    slow: float
    _last: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        self.factor = 1.0

    def noise_multiplier(self, round):
        return self.sigma * self.factor

    def released(self, round, parameters):
        now = flat(parameters)
        if self._last is not None and np.linalg.norm(now - self._last) < self.slow:
            self.factor *= 1.25
        self._last = now

    def state_dict(self):
        return {"factor": self.factor, "last": self._last}

    def load_state_dict(self, state):
        self.factor, self._last = state["factor"], state["last"]
