"""What would each policy's draws cost every device's examples, at which noise?

The price of activity at example level. Cohorts are a pure function of the seed and the rates, and
the devices' local steps follow from what they hold, so that the realised ledger of a run is known
without training a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.options import RunOptions, client_of, population_of, schedule_of, strategy_of
from experiments.selection_rows import SETTINGS
from fedsim.privacy import ExampleLedger, ExampleLevel, LocalSteps, noise_multiplier_for
from fedsim.privacy.delta import delta_for
from fedsim.privacy.example_spent import ExamplePrivacy
from fedsim.report.price import Held
from fedsim.report.price_examples import PricedExamples


def example_prices(
    options: RunOptions, policies: Mapping[str, Mapping[str, Any]], retired: Sequence[str]
) -> list[PricedExamples]:
    """Rows of all settings: uniform selection at the target epsilon, then the others twice each.

    Args:
      options: of a run; `epsilon` is what the worst device may spend.
      policies: name -> options of the selection policy; one of them "uniform".
      retired: names of those priced also where a device refuses to come more often than any does
        under uniform selection.
    """
    rows = []
    for setting in SETTINGS:
        base = replace(
            options, setting=setting, dp="example", epsilon=None, noise_multiplier=1.0,
            clip_norm=1.0, weighting="auto",
        )  # fmt: skip
        assert options.epsilon is not None
        uniform = draws(replace(base, **policies["uniform"]))
        sigma = uniform.noise_for(options.epsilon)
        rows.append(uniform.priced("both", sigma))
        wanted = [replace(base, **made) for name, made in policies.items() if name != "uniform"]
        most = int(uniform.participations.max())
        wanted += [replace(base, **policies[name], max_participations=most) for name in retired]
        for changed in wanted:
            own = draws(changed)
            alike = sigma * uniform.unit_noise / own.unit_noise
            rows.append(own.priced("noise", alike))
            rows.append(own.priced("epsilon", own.noise_for(options.epsilon)))
    return rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Who was drawn and did not refuse, over a run.

    Attributes:
      setting: "static" or "continual".
      selection: the policy's label, and the cure's.
      weighting: as resolved.
      local: how devices go through their examples.
      delta: of the epsilons.
      activity: (devices,) examples each holds, mean over periods.
      taken: (device, examples it held) of every participation.
      unit_noise: effective noise at noise multiplier 1.
    """

    setting: str
    selection: str
    weighting: str
    local: LocalSteps
    delta: float
    activity: np.ndarray
    taken: Sequence[tuple[int, int]]
    unit_noise: float

    @property
    def participations(self) -> np.ndarray:
        """How often each device came, (devices,)."""
        devices = [device for device, _ in self.taken]
        return np.bincount(devices, minlength=len(self.activity))

    def ledger(self, noise_multiplier: float) -> ExampleLedger:
        """The account of all participations."""
        ledger = ExampleLedger(len(self.activity), self.delta)
        mechanism = ExampleLevel(noise_multiplier=noise_multiplier)
        for device, held in self.taken:
            ledger.charge(device, mechanism.participation(held, self.local))
        return ledger

    def noise_for(self, epsilon: float) -> float:
        """Noise multiplier at which the device that pays most ends at this epsilon."""
        return noise_multiplier_for(
            epsilon, lambda sigma: self.ledger(sigma).figures()["example_epsilon_max"]
        )

    def priced(self, held: Held, noise_multiplier: float) -> PricedExamples:
        """The row at a noise multiplier."""
        return PricedExamples(
            setting=self.setting,
            selection=self.selection,
            weighting=self.weighting,
            held=held,
            noise_multiplier=noise_multiplier,
            effective_noise=noise_multiplier * self.unit_noise,
            delta=self.delta,
            activity=self.activity,
            epsilons=self.ledger(noise_multiplier).epsilons(range(len(self.activity))),
        )


def draws(options: RunOptions) -> Draws:
    """All cohorts of a run with example-level privacy, as the run itself would draw them.

    The effective noise is that of one step from the same model: each local step adds noise of
    sigma x C x learning rate / (expected batch), a device's steps and the devices' weighted mean
    add up as variances, and the root mean square is taken over rounds in which anybody trained.
    """
    schedule, selective = schedule_of(options), strategy_of(options)
    people = population_of(options).cut(schedule.periods, schedule.by, schedule.retention)
    client = client_of(options)
    assert client.privacy is not None
    local = LocalSteps(
        batch_size=options.batch_size,
        local_epochs=options.local_epochs,
        local_steps=options.local_steps,
    )
    units = max(int(people.counts.sum()), people.devices)
    delta = delta_for(units, options.delta, "examples")
    account = ExamplePrivacy(
        mechanism=client.privacy,
        local=local,
        people=people,
        ledger=ExampleLedger(people.devices, delta),
    )
    taken, squares = list[tuple[int, int]](), list[float]()
    for round in range(1, schedule.rounds + 1):
        period = schedule.period(round)
        plan = selective.plan(round, period, people.activity(period), options.seed)  # type: ignore[attr-defined]
        refused = account.charge(plan.cohort.tolist(), period)
        came = ~np.isin(plan.cohort, list(refused))
        held, weights = plan.examples[came], plan.weights[came]
        taken += zip(plan.cohort[came].tolist(), held.tolist(), strict=True)
        if weights.sum() > 0:
            variances = (
                np.array([local.steps(n) for n in held]) / np.minimum(held, local.batch_size) ** 2
            )
            squares.append(float((weights**2 * variances).sum() / weights.sum() ** 2))
    most = options.max_participations
    return Draws(
        setting=options.setting,
        selection=selective.policy.label + ("" if most is None else f", at most {most} times"),  # type: ignore[attr-defined]
        weighting=selective.weighting,  # type: ignore[attr-defined]
        local=local,
        delta=delta,
        activity=np.mean([people.activity(p) for p in range(people.periods)], axis=0),
        taken=taken,
        unit_noise=float(np.sqrt(np.mean(squares))),
    )
