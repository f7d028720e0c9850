"""How is a broken account caught? Every device is priced again, from its own draws, by a loop.

The oracle reads the policy and the draws, and nothing that the mechanism says of itself.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from catchers import SIZE, one_round
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from flwr.serverapp.strategy import FedAvg

from fedsim.population import Population
from fedsim.privacy import DeviceSum, ExampleLedger, ExampleLevel, Gaussian, LocalSteps, epsilon
from fedsim.privacy.example_spent import ExamplePrivacy
from fedsim.privacy.filtered_ledger import FilteredLedger
from fedsim.privacy.release import DeviceLevel
from fedsim.rng import stream
from strategies import ActivitySelection, PrivateAggregation, Selective

ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class DeviceAccount:
    """Rounds of device-level privacy in which half of the devices drop out.

    Attributes:
      level: the mechanism.
      strategy: `PrivateAggregation`, or a broken one.
    """

    level: DeviceLevel
    strategy: type[PrivateAggregation] = PrivateAggregation


def device_ledger_against_oracle(account: DeviceAccount) -> str | None:
    """Epsilons of every device before who sees the models, and who also sees who took part."""
    holds = np.array([1, 2, 4, 8, 16, 32])
    policy = ActivitySelection(cohort=2.0)
    selective = Selective(account.strategy(FedAvg(), account.level), policy, weighting="examples")
    selective.prepare([holds], [ROUNDS])
    taken = np.zeros(len(holds), int)
    for round in range(1, ROUNDS + 1):
        plan = selective.plan(round, 0, holds, 5)
        taken[plan.cohort] += 1
        replying = plan.cohort[plan.cohort % 2 == round % 2].tolist()
        one_round(selective, plan, {device: torch.ones(SIZE) for device in replying})
    assert taken.max() > 1
    ledger, delta = selective.strategy.ledger, account.level.delta
    noises = account.level.noise_multiplier * holds.max() / holds
    rounds = [
        epsilon([Gaussian(noise_multiplier=s, rate=q, steps=ROUNDS)], delta)
        for s, q in zip(noises, policy.rates(holds), strict=True)
    ]
    participations = [
        epsilon([Gaussian(noise_multiplier=s, steps=k)] if k else [], delta)
        for s, k in zip(noises, taken.tolist(), strict=True)
    ]
    everybody = np.arange(len(holds))
    return _cheaper(ledger.epsilons(everybody), rounds, "for its rounds") or _cheaper(
        ledger.participation_epsilons(everybody), participations, "for its participations"
    )


def filter_against_oracle(kind: type[FilteredLedger]) -> str | None:
    """What each device was let take part in, by dp-accounting, against the budget at the order."""
    budget, order, delta = 4.0, 5, 1e-5
    ledger = kind(4, delta, budget, order)
    taken = [RdpAccountant([order]) for _ in range(4)]
    turn, most = stream(0, "filtered"), np.array([0.01, 0.05, 0.2, 1.0])
    for _ in range(150):
        # Rates and noise come from nowhere: no filter may count on knowing them.
        rates, sigma = most * turn.random(4), 1.0 + 3 * turn.random()
        event = Gaussian(noise_multiplier=sigma)
        kept = np.where(ledger.affordable(DeviceSum(event=event, rates=rates)), rates, 0.0)
        ledger.charge(DeviceSum(event=event, rates=kept), np.flatnonzero(kept))
        for device in np.flatnonzero(kept):
            sampled = PoissonSampledDpEvent(kept[device], GaussianDpEvent(sigma))
            taken[device].compose(sampled)
    for device, accountant in enumerate(taken):
        spent = accountant.get_epsilon(delta)
        if spent > budget * (1 + 1e-9):
            return f"device {device} spent {spent:.3g} of a budget of {budget:g}"
    return None


def example_ledger_against_oracle(mechanism: ExampleLevel) -> str | None:
    """Every drawn participation in full: ceil(n / b) steps at rate min(1, b / n) each."""
    people, size = Population.load("home", devices=6), 16
    ledger = ExampleLedger(people.devices, mechanism.delta)
    privacy = ExamplePrivacy(
        mechanism=mechanism, local=LocalSteps(batch_size=size), people=people, ledger=ledger
    )
    for round in range(ROUNDS):
        privacy.charge([d for d in range(people.devices) if round % (d + 1) == 0], 0)
    due = []
    for device, held in enumerate(people.activity().tolist()):
        step = Gaussian(
            noise_multiplier=mechanism.noise_multiplier,
            rate=min(1.0, size / held),
            steps=math.ceil(held / size) * math.ceil(ROUNDS / (device + 1)),
        )
        due.append(epsilon([step], mechanism.delta))
    return _cheaper(ledger.epsilons(range(people.devices)), due, "for its participations")


def _cheaper(charged: Iterable[float], due: Iterable[float], what: str) -> str | None:
    """A ledger is too cheap below 0.999 of the oracle, and too dear above 1.01 (its grids)."""
    paid, owed = np.array(charged), np.array(due)
    worst = int(np.argmin(paid - owed))
    if (paid >= 0.999 * owed).all() and (paid <= 1.01 * owed).all():
        return None
    return f"device {worst} is charged {paid[worst]:.3g} {what}, and owes {owed[worst]:.3g}"
