"""What does a device's own update give away to the server that receives it?

A step of training on an example moves the parameters against its gradient. So an example that was
in an update has a gradient at the model that was sent which points away from the update. The score
of a panel example is that alignment,

    -<g / |g|, u / |u|>  minus its mean over the updates of the other devices of the round,

g the example's gradient and u its device's update; the mean takes out what every update has in
common, because all of them learn the same language. Of several rounds the mean counts. It is what a
matched filter would look for in an update with noise on it, and the gradient attack of Li et al.,
"Effective passive membership inference attacks in federated learning against overparameterized
models", ICLR 2023 (https://openreview.net/forum?id=QsCSLPP55Ku) uses the same angle.

What may be compared with it: under example-level DP the realised ledger of the attacked device;
under central DP nothing, because the server sees updates before any noise, and its epsilon is
infinite (`fedsim.leakage.claims`). The figures here are AUC and true positive rates alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.leakage.by_group import figures_by_group
from fedsim.leakage.panel import Panel
from fedsim.leakage.signals import panel_examples
from fedsim.models.joint import JointTagger, Parameters
from fedsim.plan import FinishedRound
from fedsim.population import Population
from fedsim.probes import Figures, Replies
from fedsim.schedule import Schedule
from fedsim.training.batches import tensors


@dataclass(kw_only=True, eq=False)
class UpdateAttack:
    """Membership of panel examples in their devices' updates; keeps state, so it serves one run.

    Only examples count whose device was heard of in a round in which it held their slot.

    Attributes:
      panel: of utterances.
      population: before the panel's coins were applied.
      model: the run's.
      schedule: the run's.
      seed: the run's, which reservoirs follow from.
      every: rounds between those whose updates are looked at.
      sums: (m,) scores so far, summed over rounds.
      times: (m,) rounds they are from.
    """

    panel: Panel
    population: Population
    model: JointTagger
    schedule: Schedule
    seed: int
    every: int = 1
    sums: np.ndarray = field(init=False)
    times: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        require(self.every >= 1, f"every is {self.every}; choose 1 (every round) or more")
        require(
            self.panel.unit == "example",
            f"the panel's unit is {self.panel.unit!r}, and a device that is null sends no update "
            "that could be attacked; choose an example_panel",
        )
        schedule = self.schedule
        self._people = self.population.cut(schedule.periods, schedule.by, schedule.retention)
        self._examples = panel_examples(self.panel, self._people)
        self.sums = np.zeros(len(self.panel))
        self.times = np.zeros(len(self.panel), np.int64)

    def observe(self, round: int, period: int, sent: Parameters, replies: Replies) -> None:
        """Score the panel examples that the devices of a round hold."""
        if round % self.every:
            return
        common = {name: torch.zeros_like(p) for name, p in sent.items()}
        for read in replies.values():
            for name, part in _direction(sent, read()).items():
                common[name] += part
        for device in np.intersect1d(self.panel.device, [*replies]).tolist():
            own = _direction(sent, replies[device]())
            others = max(len(replies) - 1, 1)
            beyond = {name: part - (common[name] - part) / others for name, part in own.items()}
            for member in self._held(device, period).tolist():
                batch = tensors(self._examples, np.array([member]))
                self.sums[member] -= _alignment(self.model, sent, batch, beyond)
                self.times[member] += 1

    def __call__(self, finished: FinishedRound) -> Figures:
        """`leakage/auc_by_update` and the like, over all updates looked at so far."""
        if finished.round % self.every and not finished.last:
            return {}
        return figures_by_group("update", self.panel, self._scores())

    def files(self) -> dict[str, dict[str, np.ndarray]]:
        """update_scores.npz: scores (m,), NaN where no update was seen, and times (m,)."""
        return {"update_scores": {"scores": self._scores(), "times": self.times}}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Scores so far."""
        return {"sums": self.sums.copy(), "times": self.times.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Go on from saved scores."""
        self.sums, self.times = state["sums"].copy(), state["times"].copy()

    def _scores(self) -> np.ndarray:
        """(m,) mean scores, NaN without any."""
        seen = self.times > 0
        return np.where(seen, self.sums / np.maximum(self.times, 1), np.nan)

    def _held(self, device: int, period: int) -> np.ndarray:
        """Members of the panel whose slot a device holds in a period."""
        people, members = self._people, np.flatnonzero(self.panel.device == device)
        held = people.keep.select(people.train(device).period, period, self.seed, device)
        return members[np.isin(self.panel.rows[members] - people.starts[device], held)]


def _direction(sent: Parameters, reply: Parameters) -> dict[str, Tensor]:
    """An update of length 1; zero where the device sent back what it received."""
    update = {name: reply[name] - p for name, p in sent.items()}
    length = _length(update.values())
    return {name: part / length if length > 0 else part for name, part in update.items()}


def _alignment(
    model: JointTagger, sent: Parameters, batch: dict[str, Tensor], along: dict[str, Tensor]
) -> float:
    """<g / |g|, along> with g the gradient of one example's loss; 0 where that is no number."""
    own = {name: p.detach().requires_grad_() for name, p in sent.items()}
    loss = model.losses(own, batch).sum()
    gradient = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
    product = sum(float(torch.sum(g * along[name])) for name, g in gradient.items())
    aligned = product / max(_length(gradient.values()), np.finfo(float).tiny)
    return aligned if np.isfinite(aligned) else 0.0


def _length(parts: Iterable[Tensor]) -> float:
    """Euclidean norm of several tensors together."""
    return float(
        sum(float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 for part in parts)
        ** 0.5
    )
