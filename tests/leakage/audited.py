"""How is a broken mechanism caught from outside? By audits, which see releases and know no code.

Both audits compare a lower bound on epsilon with what the mechanism's own ledger claims at the
same delta; a bound above the claim is an alarm, and a sound mechanism raises one with probability
0.05 at most.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from catchers import NOBODY, Steps, neighbours
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from fedsim import Population, Simulation, Static
from fedsim.leakage.canaries import Canaries, CanaryClient, canary_panel
from fedsim.leakage.probe import Leakage
from fedsim.leakage.repeated import repeated_runs_bound
from fedsim.models import BiLSTMTagger
from fedsim.models.joint import Parameters
from fedsim.privacy import epsilon
from fedsim.privacy.release import DeviceLevel
from strategies import ActivitySelection, PrivateAggregation, Selective

LEVEL, DELTA, FAR = 0.05, 0.1, (1.25, 2.5)
"""Of repeated runs: level, delta, and the standard deviations of noise that count as far: those
that show half the noise, and twice the sensitivity, best at 500 to 2,000 runs."""


class Verdict(NamedTuple):
    """What an audit found, and what was claimed."""

    bound: float
    claim: float

    @property
    def alarm(self) -> bool:
        return self.bound > self.claim


def repeated_runs(mechanism: Steps, runs: int = 500) -> Verdict:
    """Many runs in each of two neighbouring worlds; one unit is there in the first step, or not.

    Attacks, fixed before any run, share the level: whether the sum moved far towards the unit
    (where it moves sums most), for each of `FAR`; whether anything moved, when nobody else is
    there; and whether the first step is nearer to the unit than a second one without it, which
    takes noise out that both share.
    """
    far = max(neighbours(), key=lambda pair: _distance(mechanism, *pair))
    alone = np.vstack([far[0][:1], NOBODY[1:]])
    towards, lonely = (mechanism.sums([w], 0, noise=False)[0] for w in (far[0], alone))
    still = mechanism.sums([far[1]], 0, noise=False)[0]
    along = (towards - still) / np.linalg.norm(towards - still)
    single = lonely / np.linalg.norm(lonely)

    def moved_far(deviations, steps):
        return (steps[0] - still) @ along > deviations * mechanism.spread

    def moved(steps):
        return steps[0].any()

    def moved_apart(steps):
        return (steps[0] - steps[1]) @ single > np.linalg.norm(lonely) / 2

    attacks = (
        *((partial(moved_far, deviations), [far[0]], [far[1]]) for deviations in FAR),
        (moved, [alone], [NOBODY]),
        (moved_apart, [alone, NOBODY], [NOBODY, NOBODY]),
    )
    bounds = []
    for attack, here, there in attacks:
        said = [
            sum(bool(attack(mechanism.sums(world, seed, noise=True))) for seed in range(start, end))
            for world, start, end in ((here, 0, runs), (there, runs, 2 * runs))
        ]
        bounds.append(
            repeated_runs_bound(
                hits=said[0],
                members=runs,
                false_alarms=said[1],
                non_members=runs,
                delta=DELTA,
                level=LEVEL / len(attacks),
            )
        )
    return Verdict(max(bounds), epsilon([mechanism.event], DELTA))


def _distance(mechanism: Steps, here: np.ndarray, there: np.ndarray) -> float:
    one, other = (mechanism.sums([world], 0, noise=False)[0] for world in (here, there))
    return float(np.linalg.norm(one - other))


@dataclass(frozen=True, kw_only=True)
class CanaryRun:
    """One simulation with canary devices, which hold so much that they come in every round.

    Attributes:
      level: device-level privacy; its delta becomes the audit's.
      strategy: `PrivateAggregation`, or a broken one.
      rounds: of the run.
      devices: ordinary ones, of home.
      canaries: canary devices.
    """

    level: DeviceLevel
    strategy: type[PrivateAggregation] = PrivateAggregation
    rounds: int = 1
    devices: int = 6
    canaries: int = 400


class KeptCanaries(Canaries):
    """Canaries whose directions are drawn once, for runs of many rounds."""

    @cached_property
    def _kept(self) -> dict[int, Parameters]:
        return {}

    def direction(self, device: int, like: Parameters) -> Parameters:
        if device not in self._kept:
            self._kept[device] = super().direction(device, like)
        return self._kept[device]


def one_run(run: CanaryRun, seed: int = 0) -> Verdict:
    """fedsim's own audit, as in a user's run: canaries, probe, ledger, record."""
    people, panel = canary_panel(
        Population.load("home", devices=run.devices), seed=seed, size=run.canaries, activity=1000
    )
    model = BiLSTMTagger.sized_for(people, embedding=4, hidden=4)
    canaries = KeptCanaries(panel=panel, seed=seed, length=10 * run.level.clip_norm)
    schedule = Static(rounds=run.rounds)
    probe = Leakage(
        panel=panel,
        population=people,
        model=model,
        schedule=schedule,
        every=run.rounds,
        losses=canaries.losses(model),
    )
    level = replace(run.level, delta=probe.delta)
    policy = ActivitySelection(cohort=run.canaries + 1)
    last = (
        Simulation(
            population=people,
            model=model,
            client=CanaryClient(client=NLUClient(), canaries=canaries),
            strategy=Selective(run.strategy(FedAvg(), level), policy, weighting="examples"),
            schedule=schedule,
            seed=seed,
            workers=0,
            evaluate_every=run.rounds,
            probes=[probe],
        )
        .run(progress=False)
        .rounds[-1]
    )
    return Verdict(last["epsilon_audit_low"], last["epsilon_claim_at_delta_audit"])
