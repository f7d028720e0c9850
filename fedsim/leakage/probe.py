"""What does the global model give away about the panel, round by round?

The probe scores the panel's utterances with the new global model. The primary attack is the
untrained model's loss minus the model's: its AUC and true positive rates are the `mia_*` figures,
and its guesses give the lower bound on epsilon. Two more attacks have figures alone: the plain
loss, and the loss against an earlier model (`fedsim.leakage.losses`).

A member counts once its period has come: before, nobody was trained on it. Which members count
follows from the schedule, not from the coins, so the bound holds for them as for the whole panel.
A bound found once holds from then on, because what is released only grows; so each round shows the
best so far. It is held against the claim about the panel's own devices at the audit's own delta.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedsim.errors import require
from fedsim.leakage.attacks import by_loss, by_reference
from fedsim.leakage.audit import Audit, audited_rounds
from fedsim.leakage.by_group import figures_by_group
from fedsim.leakage.claims import claimed
from fedsim.leakage.figures import figures_of
from fedsim.leakage.losses import Losses
from fedsim.leakage.notes import panel_notes
from fedsim.leakage.panel import GROUPS, Panel
from fedsim.leakage.signals import LARGEST_LOSS
from fedsim.models.joint import JointTagger, Parameters
from fedsim.plan import FinishedRound
from fedsim.population import Population
from fedsim.privacy.account import Account
from fedsim.probes import Due, Figures
from fedsim.schedule import Schedule
from fedsim.training.scoring import Scorer

log = logging.getLogger(__name__)

Claim = Callable[[FinishedRound, np.ndarray, float], float]
"""(finished round, device ids, delta) -> the largest epsilon that is claimed for these devices up
to this round, of the kind that `fedsim.leakage.claims.comparison` admits; infinite without one."""


@dataclass(kw_only=True, eq=False)
class Leakage:
    """Membership inference and audit of a panel, every k rounds; keeps state, so it serves one run.

    Attributes:
      panel: who is attacked.
      population: before the panel's coins were applied.
      model: the run's, whose own parameters are the untrained model.
      schedule: the run's; it fixes the audited rounds before training, unless a privacy budget ends
        the run before them, which is known before training too.
      every: rounds between measurements; audited rounds and the last are measured too.
      claim: what the bound is held against; None reads the run's own ledgers.
      losses: parameters -> (n,) losses of the panel's rows, smaller where they look trained on;
        None scores the panel's utterances. Canary devices bring their own.
      best: (1 + groups,) best lower bound on epsilon so far, of the panel and of each group.
      exceeded: whether any bound was above its claim: somebody's mechanism is broken.
    """

    panel: Panel
    population: Population
    model: JointTagger
    schedule: Schedule
    every: int = 1
    claim: Claim | None = None
    losses: Callable[[Parameters], np.ndarray] | None = None
    best: np.ndarray = field(init=False)
    exceeded: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        require(self.every >= 1, f"every is {self.every}; choose 1 (every round) or more")
        self._due = Due(every=self.every)
        self._promise(self.schedule.rounds)
        self.best = np.zeros(1 + len(GROUPS))
        schedule = self.schedule
        people = self.population.cut(schedule.periods, schedule.by, schedule.retention)
        examples = self.panel.examples(people)
        nulled = int(examples.null.sum())
        require(
            self.losses is not None or nulled == 0,
            f"{nulled} of the panel's examples are null records in the population given to Leakage"
            "; give it the population from before the panel was applied",
        )
        self._period = examples.period
        self._scorer = Scorer(self.model, examples)
        self._reference: np.ndarray | None = None
        self._kept = Losses(rows=len(self.panel.rows))

    def __call__(self, finished: FinishedRound) -> Figures:
        """`mia_*`, `epsilon_audit_low`, `delta_audit`, the claim there, and `leakage/...`."""
        audited = finished.round in self.audit.rounds
        if not audited and not self._due(finished):
            return {}
        losses = self._scored(finished.parameters, finished.map)
        untrained = self._untrained(finished.map)
        self._kept.add(finished.round, losses, audited=audited)
        counted = self._period <= finished.period
        scores = self.panel.per_member(by_reference(losses, untrained), counted)
        member, looks = self.panel.included, self.panel.looks(np.isfinite(scores))
        if audited:
            found = [self.audit.bound(scores[who], member[who], self.delta) for who in looks]
            self.best = np.maximum(self.best, found)
        claims = [self._claimed(finished, np.unique(self.panel.device[who])) for who in looks]
        if audited:
            self._compare(finished.round, claims)
        others = {"loss": by_loss(losses)}
        earlier = self._kept.earlier(finished.round)
        if earlier is not None:
            others["earlier"] = by_reference(losses, earlier)
        figures = figures_of(scores, member, looks, self.best, claims)
        for name, rows in others.items():
            each = self.panel.per_member(rows, counted)
            figures |= figures_by_group(name, self.panel, each)
        return {
            **figures,
            "delta_audit": self.delta,
            "leakage/bound_exceeds_claim": self.exceeded,
        }

    def begin(self, account: Account, last: int) -> dict[str, Any]:
        """Panel and audit as they are fixed before training, and what a reader must know."""
        self._promise(last)
        digest = hashlib.sha256()
        for array in self.panel.arrays().values():
            digest.update(np.ascontiguousarray(array).tobytes())
        claims = account.comparable(self.panel.unit)
        return {
            "unit": self.panel.unit,
            "members": len(self.panel),
            "sha256": digest.hexdigest(),
            "audited_rounds": list(self.audit.rounds),
            "level": self.audit.level,
            "delta": self.delta,
            "notes": panel_notes(self.panel, self.population, claims, self.audit.level),
        }

    def files(self) -> dict[str, dict[str, np.ndarray]]:
        """panel.npz: members and coins; scores.npz: the losses of the audited rounds."""
        return {"panel": self.panel.arrays(), "scores": self.arrays()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Losses of the panel's rows under the models of the audited rounds.

        Returns:
          rounds (audited,), losses (audited, n) float32, and period (n,), from 0, of each row; once
          a round was measured also untrained (n,) float32.
        """
        found: dict[str, np.ndarray] = {
            "rounds": self._kept.rounds,
            "losses": self._kept.losses,
            "period": self._period,
        }
        return found if self._reference is None else found | {"untrained": self._reference}

    def state_dict(self) -> dict[str, Any]:
        """Bounds and losses so far."""
        return {
            "best": self.best.copy(),
            "exceeded": self.exceeded,
            "untrained": self._reference,
            "losses": self._kept.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved bounds and losses."""
        self.best, self.exceeded = state["best"].copy(), state["exceeded"]
        self._reference = state["untrained"]
        self._kept.load_state_dict(state["losses"])

    def _promise(self, last: int) -> None:
        """Fix which rounds are audited, the last of the run among them, and at which delta."""
        self.audit = Audit(rounds=audited_rounds(last), groups=1 + len(GROUPS))
        self.delta = self.audit.delta(len(self.panel))

    def _scored(self, parameters: Parameters, map: Callable[..., Iterable]) -> np.ndarray:
        """Losses an attack can work with: a model that diverged must not end the run."""
        if self.losses is None:
            found = self._scorer(parameters, map).losses
        else:
            found = np.asarray(self.losses(parameters), np.float32)
        return np.nan_to_num(found, nan=LARGEST_LOSS, posinf=LARGEST_LOSS)

    def _untrained(self, map: Callable[..., Iterable]) -> np.ndarray:
        """Losses of the untrained model; scored in the run, on as many threads as the others."""
        if self._reference is None:
            own = {name: p.detach() for name, p in self.model.named_parameters()}
            self._reference = self._scored(own, map)
        return self._reference

    def _claimed(self, finished: FinishedRound, devices: np.ndarray) -> float:
        if len(devices) == 0:
            return math.inf
        if self.claim is not None:
            return self.claim(finished, devices, self.delta)
        return claimed(finished.account, self.panel.unit, devices, self.delta)

    def _compare(self, round: int, claims: list[float]) -> None:
        for name, bound, claim in zip(("panel", *GROUPS), self.best, claims, strict=True):
            if bound > claim:
                self.exceeded = True
                log.error(
                    "round %d: the audit of the %s devices shows epsilon > %.3g at delta %g, but "
                    "%.3g is claimed; a mechanism or its accounting is broken",
                    *(round, name, bound, self.delta, claim),
                )
