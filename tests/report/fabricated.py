"""Runs that look like finished ones, made from a formula: accuracy rises with examples seen."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from fedsim.report.curves import Group

ACTIVITY = np.round(np.geomspace(1, 400, 60)).astype(int)
SPEED = {"uniform": 1.0, "activity": 2.0, "log": 1.2, "sqrt": 1.5, "softmax": 1.7, "top": 2.4}


def rates(selection: str, activity: np.ndarray = ACTIVITY, cohort: float = 8) -> np.ndarray:
    """Participation rates, shape (devices,), of a policy of that name."""
    weight = {
        "uniform": np.ones(len(activity)),
        "log": np.log1p(activity),
        "sqrt": np.sqrt(activity),
        "softmax": np.exp(activity / 100),
        "top": (activity >= np.sort(activity)[-int(cohort)]).astype(float),
    }.get(selection, activity.astype(float))
    return np.minimum(1, cohort * weight / weight.sum())


def cohort(selection: str) -> np.ndarray:
    """Eight neighbouring devices that hold about 100 x SPEED examples together."""
    windows = np.lib.stride_tricks.sliding_window_view(ACTIVITY, 8).sum(axis=1)
    first = int(np.argmin(np.abs(windows - 100 * SPEED.get(selection, 1.0))))
    return np.arange(first, first + 8)


def run(
    selection: str = "uniform",
    setting: str = "static",
    seed: int = 0,
    *,
    rounds: int = 40,
    every: int = 4,
    gain: float = 0.0,
    periods: int = 4,
    config: dict[str, Any] | None = None,
) -> Any:
    """A finished run.

    Args:
      selection: name of the policy; decides who comes, and so the examples of a round.
      setting: "static" or "continual".
      seed: shifts every accuracy a little, alike for all policies.
      rounds: lines of the record.
      every: rounds between measurements; the last round is always measured.
      gain: added to every accuracy.
      periods: of the continual setting.
      config: further options.
    """
    options = {
        "corpus": "home", "model": "bilstm", "setting": setting, "rounds": rounds,
        "periods": periods, "by": "device", "keep": "current", "cohort": 8, "draw": "poisson",
        "selection": selection, "weighting": "equal" if selection == "activity" else "examples",
        "strategy": "fedavg", "learning_rate": 1.0, "batch_size": 16, "optimizer": "sgd",
        "local_epochs": 1, "local_steps": None, "seed": seed,
    }  # fmt: skip
    options |= config or {}
    client = {k: options[k] for k in ("batch_size", "local_epochs", "local_steps")}
    options["simulation"] = {"client": {**client, "learning_rate": options["learning_rate"]}}
    random = np.random.default_rng([seed, len(selection)])
    examples, lines = int(ACTIVITY[cohort(selection)].sum()), []
    for number in range(1, rounds + 1):
        period = 1 if setting == "static" else 1 + (number - 1) * periods // rounds
        line: dict[str, Any] = {
            "round": number, "period": period, "cohort_size": 8,
            "cohort_examples": examples, "failures": 0, "intent_accuracy": None, "figures": {},
        }  # fmt: skip
        if number % every == 0 or number == rounds:
            seen = examples / 100 * number / rounds * (1 if setting == "static" else 0.8)
            accuracy = 0.8 * (1 - np.exp(-2 * seen)) + 0.01 * (seed % 3) + gain
            accuracy += 0.004 * random.standard_normal()
            line |= {"intent_accuracy": accuracy, "slot_f1": accuracy - 0.1}
            line |= {"exact_match": accuracy - 0.2}
            figures = {f"deciles/intent_accuracy_{d}": accuracy - 0.1 + d / 60 for d in (1, 10)}
            if setting == "continual":
                figures |= {
                    f"periods/intent_accuracy_{p}": accuracy - 0.03 * (period - p)
                    for p in range(1, period + 1)
                }
                figures["forgetting/intent_accuracy"] = 0.02
            line["figures"] = figures
        lines.append(line)
    return SimpleNamespace(
        config=options,
        start={"assumptions": []},
        rounds=lines,
        summary={},
        cohorts={
            "rates": rates(selection)[None],
            "drawn": np.tile(cohort(selection), rounds),
            "drawn_offsets": np.arange(rounds + 1) * 8,
        },
        devices={"activity": np.stack([ACTIVITY] * (periods if setting == "continual" else 1))},
    )


def group(
    selection: str = "uniform", setting: str = "static", seeds: int = 3, **settings: Any
) -> Group:
    """One run a seed."""
    runs = [run(selection, setting, seed, **settings) for seed in range(seeds)]
    return Group(
        setting=setting, selection=selection, weighting=runs[0].config["weighting"], runs=runs
    )
