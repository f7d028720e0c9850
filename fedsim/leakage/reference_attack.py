"""How much more does the panel leak to an attacker who trains reference models?

Offline LiRA and RMIA (`fedsim.leakage.attacks`) on both signals of the global model, against
reference models of the same round (`fedsim.leakage.reference_models`). They cost as many more runs
as there are reference models, so they are made at the end, or every k rounds:

    panel = example_panel(people, seed=7)
    attacked = Simulation(population=panel.applied(people), seed=7, ...)
    attack = reference_attack(attacked, panel=panel, population=people, folder="runs/references")
    replace(attacked, probes=[attack]).run()

A member that every reference model was trained on is left out: one in 2^k, whatever its own coin.
These attacks feed no lower bound on epsilon: an audit has one primary attack, fixed beforehand.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.leakage.attacks import lira, rmia
from fedsim.leakage.by_group import figures_by_group
from fedsim.leakage.panel import Panel
from fedsim.leakage.reference_models import ReferenceModels, train_reference_models
from fedsim.leakage.signals import SIGNALS, SignalLog, others_of, panel_examples
from fedsim.plan import FinishedRound
from fedsim.probes import Due, Figures

if TYPE_CHECKING:
    from fedsim.population import Population
    from fedsim.simulation import Simulation

ATTACKS = tuple(
    f"{attack}{'' if signal == SIGNALS[0] else '_' + signal}"
    for attack in ("lira", "rmia")
    for signal in SIGNALS
)
"""Names of the attacks in figures: `lira` and `rmia` are on the joint loss."""


def reference_attack(
    simulation: "Simulation",
    *,
    panel: Panel,
    population: "Population",
    models: int = 4,
    every: int | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> "ReferenceAttack":
    """The probe, its reference models trained (or read back).

    Args:
      simulation: the one that is to be attacked, on `panel.applied(population)`.
      panel: who is attacked: utterances or whole devices.
      population: before the panel's coins were applied.
      models: reference models, >= 2.
      every: rounds between attacks; None attacks the last model alone.
      folder: where reference models are kept, so that none is trained twice; None keeps none.
      progress: show a progress bar a model on a terminal.

    Raises:
      ConfigError: something that cannot be attacked, or that the simulation refuses.

    Example:
      >>> from dataclasses import replace
      >>> from clients import NLUClient
      >>> from fedsim import Population, Simulation, Static
      >>> from fedsim.leakage import example_panel
      >>> from fedsim.models import BiLSTMTagger
      >>> from flwr.serverapp.strategy import FedAvg
      >>> people = Population.load("home", devices=3)
      >>> panel = example_panel(people, seed=0, size=20)
      >>> attacked = Simulation(
      ...     population=panel.applied(people),
      ...     model=BiLSTMTagger.sized_for(people, embedding=4, hidden=4),
      ...     client=NLUClient(),
      ...     strategy=FedAvg(),
      ...     schedule=Static(rounds=1),
      ...     workers=0,
      ... )
      >>> attack = reference_attack(
      ...     attacked, panel=panel, population=people, models=2, progress=False
      ... )
      >>> run = replace(attacked, probes=[attack]).run(progress=False)
      >>> 0 <= run.summary["leakage/auc_by_lira"] <= 1
      True
    """
    schedule = simulation.schedule
    people = population.cut(schedule.periods, schedule.by, schedule.retention)
    log = SignalLog(
        model=simulation.model,
        panel=panel_examples(panel, people),
        others=others_of(people, simulation.seed),
        due=Due(every=schedule.rounds if every is None else every),
    )
    references = train_reference_models(
        simulation,
        panel=panel,
        population=population,
        log=log,
        models=models,
        folder=folder,
        progress=progress,
    )
    return ReferenceAttack(panel=panel, log=log, references=references)


@dataclass(kw_only=True, eq=False)
class ReferenceAttack:
    """Offline LiRA and RMIA as a probe; keeps state, so it serves one run.

    Attributes:
      panel: who is attacked.
      log: what the attacked run's models say.
      references: what reference models said after the same rounds.
    """

    panel: Panel
    log: SignalLog
    references: ReferenceModels
    _scores: dict[int, np.ndarray] = field(init=False, default_factory=dict, repr=False)

    def __call__(self, finished: FinishedRound) -> Figures:
        """`leakage/auc_by_lira` and the like (see `figures_by_group`) for each of `ATTACKS`."""
        self.log(finished)
        if self.log.said(finished.round) is None:
            return {}
        counted = self.log.panel.period <= finished.period
        scores = self._attacks(finished.round, counted)
        self._scores[finished.round] = scores
        figures: Figures = {"leakage/reference_models": len(self.references)}
        for name, each in zip(ATTACKS, scores, strict=True):
            figures |= figures_by_group(name, self.panel, each)
        return figures

    def files(self) -> dict[str, dict[str, np.ndarray]]:
        """reference_scores.npz: rounds (r,), attacks, and scores (r, attacks, m), NaN left out."""
        return {"reference_scores": self._arrays() | {"attacks": np.array(ATTACKS)}}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Scores so far."""
        return self._arrays()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Go on from saved scores."""
        self._scores = dict(zip(state["rounds"].tolist(), state["scores"], strict=True))

    def _arrays(self) -> dict[str, np.ndarray]:
        scores = np.array([*self._scores.values()], np.float64)
        return {
            "rounds": np.array([*self._scores], np.int64),
            "scores": scores.reshape(-1, len(ATTACKS), len(self.panel)),
        }

    def _attacks(self, round: int, counted: np.ndarray) -> np.ndarray:
        """Scores of every attack, (attacks, m); NaN for members that it cannot judge."""
        said = self.log.said(round)
        assert said is not None
        at = int(np.flatnonzero(self.references.rounds == round)[0])
        usable = counted & self.references.out.any(0)
        out = self.references.out[:, usable]
        # A spread over models needs an utterance that two of them were trained without.
        spread = bool((out.sum(0) > 1).any())
        scores = np.full((len(ATTACKS), len(usable)), np.nan)
        for k in range(len(SIGNALS)):
            own, reference = said[0][k, usable], self.references.panel[:, at, k, usable]
            others, others_reference = said[1][k], self.references.others[:, at, k]
            if spread:
                scores[k, usable] = lira(own, reference, out)
            if usable.any():
                rank = rmia(own, reference, out, others, others_reference)
                scores[len(SIGNALS) + k, usable] = rank
        return np.array([self.panel.per_member(rows, np.isfinite(rows)) for rows in scores])
