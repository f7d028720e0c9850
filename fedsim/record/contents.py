"""What the files of a run say: the corpus as it was read, and the run in one object."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fedsim.describe import describe
from fedsim.environment import environment
from fedsim.faults import Faults
from fedsim.models.joint import JointTagger
from fedsim.plan import FinishedRound, Scores
from fedsim.population import Population
from fedsim.probes import Accuracy, Due, activity_deciles
from fedsim.record.run import Arrays
from fedsim.record.writer import model_sha256
from fedsim.schedule import Schedule


def config_contents(
    *,
    population: str,
    model: JointTagger,
    client: Any,
    strategy: Any,
    schedule: Schedule,
    seed: int,
    workers: int | None,
    evaluate_every: int,
    probes: Sequence[Any],
    faults: Faults | None,
    engine: Mapping[str, str],
    recipe: dict | None,
) -> dict[str, Any]:
    """config.json: everything that was asked for, defaults resolved, and versions.

    `recipe` holds the options the run was built from, which are repeated at the top level; a
    script's own run has none.
    """
    policy = getattr(strategy, "policy", None)
    return {
        **(recipe or {}),
        "setting": "static" if schedule.periods == 1 else "continual",
        "selection_label": getattr(policy, "label", "none"),
        "weighting": getattr(strategy, "weighting", "strategy's own"),
        "seed": seed,
        "rounds": schedule.rounds,
        "recipe": recipe,
        "simulation": {
            "population": population,
            "model": _architecture(model),
            "client": _client(client, model),
            "strategy": describe(strategy),
            "schedule": describe(schedule),
            "workers": workers,
            "evaluate_every": evaluate_every,
            "probes": [_name(probe) for probe in probes],
            "faults": describe(faults),
            "engine": dict(engine),
        },
        "environment": environment(),
    }


def start_contents(
    people: Population,
    parameters: Mapping[str, Tensor],
    untrained: Scores,
    assumptions: Sequence[str] = (),
    privacy: Mapping[str, Any] | None = None,
    probes: Mapping[str, Any] | None = None,
    chunks: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """start.json: fingerprints, sizes, assumptions, and the untrained model's figures.

    Args:
      people: cut into the periods of the run.
      parameters: of the untrained model.
      untrained: its scores on the test set.
      assumptions: sentences beside the population's own.
      privacy: the mechanism with its noise and delta, or None without one.
      probes: what single probes say before the first round, by their names.
      chunks: how many devices are trained at once, where and why, or None where one by one.
    """
    none = np.zeros(0, np.int64)
    before = FinishedRound(
        round=0,
        period=0,
        last=True,
        plan=None,
        cohort=none,
        arrived=none,
        examples=0,
        failures=(),
        train_loss=None,
        parameters=dict(parameters),
        score=lambda: untrained,
    )
    decile = activity_deciles(people.counts.sum(axis=1))
    accuracy = Accuracy(test=people.test, decile=decile, due=Due(every=1))
    return {
        "population": people.name,
        "fingerprint": people.fingerprint,
        "devices": people.devices,
        "periods": people.periods,
        "training_examples": int(people.counts.sum()),
        "test_examples": len(people.test),
        "vocabulary": people.vocabulary.describe(),
        "parameters": sum(p.numel() for p in parameters.values()),
        "model_sha256": model_sha256(parameters),
        "assumptions": [*people.assumptions, *assumptions],
        "privacy": privacy,
        "probes": dict(probes or {}),
        "chunks": chunks,
        "untrained": accuracy(before),
    }


def device_arrays(people: Population) -> Arrays:
    """devices.npz: activity (periods, devices), decile (devices,) and hashed names (devices,)."""
    names = people.source.names()
    digests = (hashlib.sha256(str(names[i]).encode()).digest()[:8] for i in range(len(names)))
    return {
        "activity": np.array([people.activity(p) for p in range(people.periods)]),
        "decile": activity_deciles(people.counts.sum(axis=1)).astype(np.int8),
        "names": np.frombuffer(b"".join(digests), dtype=np.uint64),
    }


def summary_contents(
    rounds: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Tensor],
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """summary.json: each figure's last measured value, the model's hash, and how long it took."""
    last: dict[str, Any] = {}
    for line in rounds:
        flat = {**line, **line["figures"]}
        # Counts of single rounds are nothing that lasts.
        counts = ("faults/", "failures/")
        last |= {k: v for k, v in flat.items() if v is not None and not k.startswith(counts)}
    for name in ("figures", "round", "period", "cohort_size", "cohort_examples", "failures"):
        last.pop(name, None)
    return {
        **last,
        "rounds": len(rounds),
        "seconds": seconds,
        "seed": seed,
        "participations": sum(line["cohort_size"] for line in rounds),
        "model_sha256": model_sha256(parameters),
    }


def _name(probe: Any) -> str:
    """A probe's, without its fields: they may hold what it remembers."""
    return describe(probe) if inspect.isroutine(probe) else type(probe).__name__


def _architecture(model: JointTagger) -> dict[str, Any]:
    """Class and shapes of a model, for the record."""
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    return {"class": type(model).__name__, "shapes": shapes}


def _client(client: Any, model: JointTagger) -> Any:
    """The client's config, its learning rate resolved."""
    contents = describe(client)
    if hasattr(client, "rate"):
        contents["learning_rate"] = client.rate(model)
    return contents
