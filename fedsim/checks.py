"""What cannot work, refused in one sentence before anything is trained."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.serverapp.strategy import QFedAvg, Strategy

from fedsim.errors import require
from fedsim.population import Population
from fedsim.privacy.claim import READS, reads_of
from fedsim.schedule import Schedule
from fedsim.state import StrategyState


def check(strategy: Strategy, client: Any, people: Population) -> None:
    """Refuse a strategy, a client and a population that cannot work together.

    Args:
      strategy: as given to the simulation.
      client: likewise.
      people: cut into the periods of the run.

    Raises:
      ConfigError: the first thing that does not fit.
    """
    inner = strategy
    while isinstance(getattr(inner, "strategy", None), Strategy):
        inner = inner.strategy  # type: ignore[attr-defined]
    name = type(inner).__name__
    require(
        type(inner).start is Strategy.start,
        f"{name} overrides start(), which Simulation replaces by its own loop; "
        "use a strategy that implements configure_train and aggregate_train",
    )
    StrategyState(strategy).state_dict()
    policy = getattr(strategy, "policy", None)
    if policy is not None:
        require(
            policy.cohort <= people.devices,
            f"cohort is {policy.cohort:g}, but the population has {people.devices} devices; "
            f"choose {people.devices} or fewer",
        )
    else:
        for field in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
            wanted = int(getattr(inner, field, 0))
            require(
                wanted <= people.devices,
                f"{field} of {name} is {wanted}, but the population has {people.devices} "
                f"devices, so it would wait for ever; choose {people.devices} or fewer",
            )
    if getattr(client, "privacy", None) is not None:
        _check_examples(strategy, inner, client.privacy.epsilon)
    own = getattr(client, "proximal_mu", None)
    require(
        not (hasattr(inner, "proximal_mu") and own),
        f"{name} sends proximal-mu={getattr(inner, 'proximal_mu', None)} and the client sets "
        f"proximal_mu={own} of its own; set one of them",
    )


def prepare(
    strategy: Strategy, people: Population, schedule: Schedule, delta: float | None = None
) -> int:
    """Let a strategy resolve what depends on the population, and say which round is the last.

    Args:
      strategy: keeps what it resolves.
      people: cut into the periods of the run.
      schedule: its rounds.
      delta: of the devices' own privacy, or None without any. A record has one delta.

    Raises:
      ConfigError: the strategy cannot give what it was asked for.
    """
    if not (hasattr(strategy, "plan") and hasattr(strategy, "prepare")):
        return schedule.rounds
    private: Any = getattr(strategy, "strategy", None)
    if delta is not None and hasattr(private, "mechanism"):
        other = private.mechanism.delta
        require(
            other in (None, delta),
            f"delta is {other} at device level and {delta} at example level, and a record has one "
            "delta; give both the same",
        )
        private.mechanism = replace(private.mechanism, delta=delta)
    rounds = Counter(schedule.period(round) for round in range(1, schedule.rounds + 1))
    activities = [people.activity(period) for period in range(people.periods)]
    last = strategy.prepare(
        activities,
        [rounds[period] for period in range(people.periods)],
        claimed=delta is not None,
    )
    return schedule.rounds if last is None else last


def _check_examples(strategy: Strategy, inner: Strategy, target: float | None) -> None:
    """Refuse a strategy under which nothing that devices' own privacy claims would hold."""
    name = type(inner).__name__
    require(
        not isinstance(inner, QFedAvg),
        f"{name} weighs devices by their training losses, and devices that protect their examples "
        "add no noise to those; choose a rule that reads models alone, such as FedAvg",
    )
    # Flower's own draw by chance; what a policy reads, Selective knows.
    known = hasattr(strategy, "plan") or type(inner).configure_train.__module__.startswith("flwr.")
    require(
        known or hasattr(strategy, "reads"),
        f"{name} chooses devices in a configure_train() of its own, and what their examples pay "
        "follows from that; declare what it chooses by: reads = 'activity' (or chance), "
        "'releases', or 'private' (every epsilon is infinite under both)",
    )
    reads = reads_of(strategy)
    require(reads in READS, f"reads of {name} is {reads!r}; choose one of {', '.join(READS)}")
    require(
        target is None or reads == "activity",
        f"epsilon is {target} at example level, but rates or noise follow other things than "
        "activity, so that every example-level epsilon is infinite; give noise_multiplier instead",
    )


def surprises(policy: Any, people: Population) -> list[str]:
    """What a reader would not expect of the periods: smaller cohorts, and people seen once.

    Args:
      policy: a selection policy, or None.
      people: cut into the periods of the run.
    """
    found = []
    for period in range(people.periods if policy is not None else 0):
        activity = people.activity(period)
        expected, holders = policy.rates(activity).sum(), int(np.count_nonzero(activity))
        if expected < policy.cohort * (1 - 1e-9):
            cap = getattr(policy, "cap", 1.0)
            if expected == holders:
                who = "all of them come"
            else:
                who = f"no rate may exceed {cap:g}" if cap < 1 else "their rates reach no further"
            found.append(
                f"in period {period + 1}, {holders} devices hold data and {who}: "
                f"{expected:g} devices are expected, not the cohort of {policy.cohort:g}"
            )
    spread = np.count_nonzero(people.counts, axis=1)
    once = float((spread == 1).mean())
    if people.periods > 1 and once > 0.5:
        found.append(
            f"{100 * once:.0f} % of the devices hold all their training data in a single period"
        )
    return found
