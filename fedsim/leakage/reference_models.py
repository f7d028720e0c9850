"""What would models say about the panel that were trained under other coins?

A reference model is a run of the simulation with coins of its own and a seed of its own, everything
else equal, the untrained model included: about half of the panel is out of each. The seed is its
own because an attacker knows neither the cohorts nor the noise of the run that is attacked; with
the same noise in both, comparing them would take it out. Only what a reference model says about the
attacked utterances is kept, not the model.

With a folder each reference model is the record of a run there, under the fingerprint of everything
that made it: configs, data with its coins, seed, versions. One that is finished is read back and
never trained again; one that was interrupted goes on from its checkpoint.

The more of them, the better: Carlini et al. (S&P 2022, https://arxiv.org/abs/2112.03570) train 256,
while four already show most of it (Zarifzadeh et al., ICML 2024, https://arxiv.org/abs/2312.03262).
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.describe import describe
from fedsim.environment import environment
from fedsim.errors import require
from fedsim.leakage.panel import Panel
from fedsim.leakage.signals import SignalLog
from fedsim.record import is_finished, load_run, model_sha256
from fedsim.rng import stream

if TYPE_CHECKING:
    from fedsim.population import Population
    from fedsim.simulation import Simulation


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceModels:
    """What k reference models said, round by round.

    Attributes:
      rounds: (r,) rounds they were measured after.
      panel: (k, r, signals, n) of the panel's rows.
      others: (k, r, signals, z) of held-out utterances.
      out: (k, n) bool, which rows were left out of whose training data.
    """

    rounds: np.ndarray
    panel: np.ndarray
    others: np.ndarray
    out: np.ndarray

    def __len__(self) -> int:
        return len(self.out)


def train_reference_models(
    simulation: "Simulation",
    *,
    panel: Panel,
    population: "Population",
    log: SignalLog,
    models: int,
    folder: Path | str | None = None,
    progress: bool = True,
) -> ReferenceModels:
    """Train what is missing, one model after another.

    Args:
      simulation: the one that is attacked; its own population and probes are not used.
      panel: who is attacked.
      population: before the panel's coins were applied.
      log: what is scored and when.
      models: how many, >= 2.
      folder: of their records; None keeps nothing on disk.
      progress: show a progress bar a model on a terminal.

    Raises:
      ConfigError: too few models, or a client whose models cannot be told from another's on disk.
    """
    require(
        models >= 2,
        f"models is {models}, but a spread over reference models needs 2 or more; choose 4",
    )
    require(
        folder is None or hasattr(simulation.client, "bind"),
        "a ClientApp of your own cannot be told from another one on disk; leave the folder of "
        "reference models out, or train through NLUClient",
    )
    coins, found = [], []
    for number in range(1, models + 1):
        own = panel.redrawn(simulation.seed, number)
        rows = replace(log)
        run = replace(
            simulation,
            population=own.applied(population),
            seed=int(stream(simulation.seed, "reference model", number).integers(2**31)),
            probes=[rows],
            evaluate_every=simulation.schedule.rounds,
        )
        coins.append(~own.included[own.member])
        found.append(_signals(run, rows, folder, progress))
    return ReferenceModels(
        rounds=found[0]["rounds"],
        panel=np.array([each["panel"] for each in found]),
        others=np.array([each["others"] for each in found]),
        out=np.array(coins),
    )


def fingerprint(simulation: "Simulation", log: SignalLog) -> str:
    """SHA-256 of everything that a reference model and what it says follow from."""
    schedule, model = simulation.schedule, simulation.model
    people = simulation.population.cut(schedule.periods, schedule.by, schedule.retention)
    versions = {k: v for k, v in environment().items() if k != "uncommitted_changes"}
    made_of = {
        "population": people.fingerprint,
        "model": [type(model).__name__, model_sha256(dict(model.named_parameters()))],
        "client": describe(simulation.client),
        "strategy": describe(simulation.strategy),
        "schedule": describe(schedule),
        "faults": describe(simulation.faults),
        "seed": simulation.seed,
        "scored": log.fingerprint,
        "environment": versions,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _signals(
    simulation: "Simulation", log: SignalLog, folder: Path | str | None, progress: bool
) -> dict[str, np.ndarray]:
    """What one reference model said, read back where it is there already."""
    if folder is None:
        return simulation.run(progress=progress).arrays("signals")
    path = Path(folder) / fingerprint(simulation, log)[:16]
    if is_finished(path):
        return load_run(path).arrays("signals")
    return simulation.run(path, resume=True, progress=progress).arrays("signals")
