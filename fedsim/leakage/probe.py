"""What does the global model give away about the panel, round by round?

The probe scores the panel's utterances with the new global model. The primary attack is the
untrained model's loss minus the model's: its AUC and true positive rates are the `mia_*` figures,
and its guesses give the lower bound on epsilon. Two more attacks have figures alone: the plain
loss, and the loss against the model half as many rounds ago.

A member counts once its period has come: before, nobody was trained on it. Which members count
follows from the schedule, not from the coins, so the bound holds for them as for the whole panel.
A bound found once holds from then on, because what is released only grows; so each round shows the
best so far. It is held against the claim about the panel's own devices at the audit's own delta.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedsim.errors import require
from fedsim.leakage.attacks import by_loss, by_reference
from fedsim.leakage.audit import Audit, audited_rounds
from fedsim.leakage.panel import GROUPS, Panel
from fedsim.leakage.success import Success, success
from fedsim.models.joint import JointTagger, Parameters
from fedsim.plan import FinishedRound
from fedsim.population import Examples, Population
from fedsim.probes import Due, Figures
from fedsim.schedule import Schedule
from fedsim.training.scoring import Scorer

log = logging.getLogger(__name__)

Claim = Callable[[FinishedRound, np.ndarray, float], float]
"""(finished round, device ids, delta) -> the largest epsilon that is claimed for these devices up
to this round, of the kind that `fedsim.leakage.claims.comparison` admits; infinite without one."""


LARGEST_LOSS = 1e6
"""What a loss that is no finite number counts as."""


def no_claim(finished: FinishedRound, devices: np.ndarray, delta: float) -> float:
    """Nothing is claimed, so nothing can be refuted."""
    return math.inf


@dataclass(kw_only=True, eq=False)
class Leakage:
    """Membership inference and audit of a panel, every k rounds; keeps state, so it serves one run.

    Attributes:
      panel: who is attacked.
      population: before the panel's coins were applied.
      model: the run's, whose own parameters are the untrained model.
      schedule: the run's; it fixes the audited rounds before training.
      every: rounds between measurements; audited rounds and the last are measured too.
      claim: what the bound is held against.
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
    claim: Claim = no_claim
    losses: Callable[[Parameters], np.ndarray] | None = None
    best: np.ndarray = field(init=False)
    exceeded: bool = field(init=False, default=False)
    _rounds: list[int] = field(init=False, default_factory=list, repr=False)
    _losses: list[np.ndarray] = field(init=False, default_factory=list, repr=False)

    def __post_init__(self) -> None:
        require(self.every >= 1, f"every is {self.every}; choose 1 (every round) or more")
        self._due = Due(every=self.every)
        self.audit = Audit(rounds=audited_rounds(self.schedule.rounds), groups=1 + len(GROUPS))
        self.delta = self.audit.delta(len(self.panel))
        self.best = np.zeros(1 + len(GROUPS))
        schedule = self.schedule
        people = self.population.cut(schedule.periods, schedule.by, schedule.retention)
        examples = self.panel.examples(people)
        self._period = examples.period
        if self.losses is None:
            self.losses = _of_utterances(self.model, examples)

    def __call__(self, finished: FinishedRound) -> Figures:
        """`mia_*`, `epsilon_audit_low`, `delta_audit`, the claim there, and `leakage/...`."""
        audited = finished.round in self.audit.rounds
        if not audited and not self._due(finished):
            return {}
        losses = self._scored(finished.parameters)
        self._rounds.append(finished.round)
        self._losses.append(losses)
        counted = self._period <= finished.period
        scores = self.panel.per_member(by_reference(losses, self._untrained), counted)
        present, member = np.isfinite(scores), self.panel.included
        looks = [present, *(present & (self.panel.group == k) for k in range(len(GROUPS)))]
        if audited:
            found = [self.audit.bound(scores[who], member[who], self.delta) for who in looks]
            self.best = np.maximum(self.best, found)
        claims = [
            self.claim(finished, np.unique(self.panel.device[who]), self.delta)
            if who.any()
            else math.inf
            for who in looks
        ]
        self._compare(finished.round, claims)
        whole, *groups = [success(scores[who], member[who]) for who in looks]
        figures: Figures = {
            **{f"mia_{name}": value for name, value in _main(whole).items()},
            "epsilon_audit_low": float(self.best[0]),
            "delta_audit": self.delta,
            "epsilon_claim_at_delta_audit": claims[0],
            "leakage/bound_exceeds_claim": self.exceeded,
            **{f"leakage/{name}": value for name, value in _more(whole).items()},
        }
        for k, (name, of) in enumerate(zip(GROUPS, groups, strict=True), start=1):
            figures |= {f"leakage/{key}_{name}": v for key, v in {**_main(of), **_more(of)}.items()}
            figures[f"leakage/epsilon_audit_low_{name}"] = float(self.best[k])
            figures[f"leakage/epsilon_claim_at_delta_audit_{name}"] = claims[k]
        for name, rows in self._others(finished.round).items():
            each = self.panel.per_member(rows, counted)[present]
            found_by = _main(success(each, member[present]))
            figures |= {f"leakage/{key}_by_{name}": value for key, value in found_by.items()}
        return figures

    def arrays(self) -> dict[str, np.ndarray]:
        """Losses of the panel's rows under every measured model.

        Returns:
          rounds (measured,), losses (measured, n) float32, and untrained (n,) float32.
        """
        losses = np.array(self._losses, np.float32).reshape(-1, len(self.panel.rows))
        return {
            "rounds": np.array(self._rounds, np.int64),
            "losses": losses,
            "untrained": self._untrained,
        }

    def state_dict(self) -> dict[str, np.ndarray | bool]:
        """Bounds and losses so far."""
        scored = {name: array for name, array in self.arrays().items() if name != "untrained"}
        return {"best": self.best.copy(), "exceeded": self.exceeded, **scored}

    def load_state_dict(self, state: dict) -> None:
        """Go on from saved bounds and losses."""
        self.best, self.exceeded = state["best"].copy(), state["exceeded"]
        self._rounds, self._losses = state["rounds"].tolist(), list(state["losses"])

    @cached_property
    def _untrained(self) -> np.ndarray:
        """Losses of the untrained model; scored in the run, on as many threads as the others."""
        own = {name: p.detach() for name, p in self.model.named_parameters()}
        return self._scored(own)

    def _scored(self, parameters: Parameters) -> np.ndarray:
        """Losses an attack can work with: a model that diverged must not end the run."""
        assert self.losses is not None
        losses = np.asarray(self.losses(parameters), np.float32)
        return np.nan_to_num(losses, nan=LARGEST_LOSS, posinf=LARGEST_LOSS)

    def _others(self, round: int) -> dict[str, np.ndarray]:
        """Row scores of the attacks that feed no bound."""
        losses = self._losses[-1]
        earlier = [k for k, measured in enumerate(self._rounds) if measured <= round // 2]
        scores = {"loss": by_loss(losses)}
        if earlier:
            scores["earlier"] = by_reference(losses, self._losses[earlier[-1]])
        return scores

    def _compare(self, round: int, claims: list[float]) -> None:
        for name, bound, claim in zip(("panel", *GROUPS), self.best, claims, strict=True):
            if bound > claim:
                self.exceeded = True
                log.error(
                    "round %d: the audit of the %s devices shows epsilon > %.3g at delta %g, but "
                    "%.3g is claimed; a mechanism or its accounting is broken",
                    *(round, name, bound, self.delta, claim),
                )


def _main(found: Success | None) -> Figures:
    """AUC with its interval and the true positive rate at 1 %; None where nobody can be told."""
    if found is None:
        return dict.fromkeys(("auc", "auc_low", "auc_high", "tpr_at_1pct"))
    return {
        "auc": found.auc,
        "auc_low": found.low,
        "auc_high": found.high,
        "tpr_at_1pct": found.at_1pct.tpr,
    }


def _more(found: Success | None) -> Figures:
    """How many the first figures rest on, and the true positive rate at 0.1 %."""
    figures: Figures = dict.fromkeys(("members", "non_members", "tpr_at_01pct"))
    if found is not None:
        figures["members"], figures["non_members"] = found.members, found.non_members
        figures["tpr_at_01pct"] = found.at_01pct.tpr
        for name, at in (("1pct", found.at_1pct), ("01pct", found.at_01pct)):
            if at.tpr is not None:
                figures[f"tpr_at_{name}_coarse"] = at.coarse
    return figures


def _of_utterances(model: JointTagger, examples: Examples) -> Callable[[Parameters], np.ndarray]:
    """Joint losses of the panel's utterances under any parameters."""
    nulled = int(examples.null.sum())
    require(
        nulled == 0,
        f"{nulled} of the panel's examples are null records in the population given to Leakage"
        "; give it the population from before the panel was applied",
    )
    scorer = Scorer(model, examples)
    return lambda parameters: scorer(parameters).losses
