"""What does a device's own update give away to the server that receives it?

A step of training on an example moves the parameters against its gradient. So the gradient of an
example that was in an update, at the model that was sent, points away from it. The score of a panel
example is minus the cosine between the two, a mean over the rounds in which its device was heard:
what a matched filter would look for in an update with noise on it. (The angle between gradient and
update is also what Li, Li and Ribeiro attack, ICLR 2023,
https://openreview.net/forum?id=QsCSLPP55Ku.) Members and non-members are examples of the same
devices, so that what sets devices apart tells nothing about the coins.

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

    Example:
      >>> from fedsim import Static
      >>> from fedsim.leakage import example_panel
      >>> from fedsim.models import BiLSTMTagger
      >>> people = Population.load("home", devices=4)
      >>> model = BiLSTMTagger.sized_for(people, embedding=4, hidden=4)
      >>> panel = example_panel(people, seed=0, size=40)
      >>> attack = UpdateAttack(
      ...     panel=panel, population=people, model=model, schedule=Static(rounds=1), seed=0
      ... )
      >>> sent = {name: p.detach() for name, p in model.named_parameters()}
      >>> trained = tensors(panel.examples(people), np.flatnonzero(panel.device == 1)[:1])
      >>> loss = model.losses(dict(model.named_parameters()), trained).sum()
      >>> gradients = torch.autograd.grad(loss, list(model.parameters()))
      >>> reply = {n: p - g for (n, p), g in zip(sent.items(), gradients, strict=True)}
      >>> attack.observe(1, 0, sent, {1: lambda: reply})
      >>> int(attack.sums.argmax()) == int(np.flatnonzero(panel.device == 1)[0])
      True
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
        for device in np.intersect1d(self.panel.device, [*replies]).tolist():
            reply = replies[device]()
            update = {name: reply[name] - p for name, p in sent.items()}
            for member in self._held(device, period).tolist():
                batch = tensors(self._examples, np.array([member]))
                self.sums[member] -= _cosine(self.model, sent, batch, update)
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


def _cosine(
    model: JointTagger, sent: Parameters, batch: dict[str, Tensor], update: dict[str, Tensor]
) -> float:
    """Between the gradient of one example's loss and an update; 0 where one of them is nothing."""
    own = {name: p.detach().requires_grad_() for name, p in sent.items()}
    loss = model.losses(own, batch).sum()
    gradients = torch.autograd.grad(loss, list(own.values()))
    product = sum(float(torch.sum(g * update[n])) for n, g in zip(own, gradients, strict=True))
    lengths = _length(gradients) * _length(update.values())
    cosine = product / lengths if lengths else 0.0
    # A model that diverged must not end the run.
    return cosine if np.isfinite(cosine) else 0.0


def _length(parts: Iterable[Tensor]) -> float:
    """Euclidean norm of several tensors together."""
    squares = [float(torch.linalg.vector_norm(p, dtype=torch.float64)) ** 2 for p in parts]
    return float(np.sqrt(sum(squares)))
