"""Which rows the price-of-activity experiment has, and how much noise each of them gets.

A row is a policy, a weighting and a cure, its noise fixed by what it has in common with uniform
selection at equal weights, which itself is given a target epsilon: the noise per coordinate of the
mean update, or the epsilon of the device that pays most. All of them are trained, since the table
shows their accuracy; the rows of example-level privacy (`experiments.price_examples`) are not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.cells import Cell
from experiments.options import RunOptions, policy_of, population_of, schedule_of, strategy_of
from experiments.selection_rows import SETTINGS, WEIGHTINGS
from fedsim.checks import prepare
from fedsim.record import Run
from fedsim.report.curves import Group
from fedsim.report.price import Held, Priced

POLICIES: dict[str, dict[str, Any]] = {
    "uniform": {"selection": "uniform"},
    "log": {"selection": "log"},
    "sqrt": {"selection": "sqrt"},
    "activity": {"selection": "activity"},
    "activity-cap.1": {"selection": "activity", "cap": 0.1},
    "activity^2": {"selection": "activity", "power": 2.0},
}
"""Names of policies here, and the options that make them."""

BUDGETS: dict[str, Callable[[float], str]] = {
    "per group": lambda most: f"{most / 4:g}:.54,{most / 2:g}:.37,{most:g}:.09",
    "per client": lambda most: f"{most / 8:g}-{most:g}",
}
"""Names of baselines that go from budgets to rates, and the budgets at the largest of them."""

ALIKE = {("uniform", "inverse-rate"), ("activity", "inverse-rate")}
"""Weightings that equal another one: examples for uniform rates, equal for proportional ones."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
      options: of its runs, the seed apart.
      held: what its noise was chosen for.
      policy: one of POLICIES, or "budgets".
      variant: what the table says it is, beside the policy; "" for a policy as it is.
    """

    options: RunOptions
    held: Held
    policy: str
    variant: str = ""

    def cell(self, seed: int) -> Cell:
        """The row's run of one seed."""
        o = self.options
        parts = [o.setting, self.policy, o.weighting, self.variant.replace(" ", "-"), self.held]
        name = "-".join(part for part in parts if part)
        return Cell(name=f"{name}-seed{seed}", options=replace(o, seed=seed))

    def priced(self, runs: Sequence[Run]) -> Priced:
        """The row's finished runs."""
        config = runs[0].config
        group = Group(
            setting=self.options.setting,
            selection=policy_of(replace(self.options, scale=None)).label,
            weighting=config["weighting"],
            variant=self.variant,
            runs=runs,
        )
        return Priced(group=group, held=self.held)


def rows_of(
    options: RunOptions,
    policies: Sequence[str],
    *,
    crossed: Sequence[str] = (),
    public: Sequence[str] = (),
    retired: Sequence[str] = (),
    budgets: Sequence[str] = (),
) -> list[Row]:
    """All rows, setting by setting: without privacy, uniform, then the others twice each.

    Retirement starts with the noise that uniform selection has and ends at its epsilon, and from
    budgets follow rates and noise: such a row comes once, at equal epsilon.

    Args:
      options: of every run; `epsilon` is what the worst device may spend.
      policies: names in POLICIES, run with equal weights.
      crossed: those of them that run under every weighting.
      public: those that run at a public scale as well, under add/remove neighbours.
      retired: those that also run with devices retired before they exceed `options.epsilon`.
      budgets: names in BUDGETS.
    """
    rows = []
    for setting in SETTINGS:
        private = replace(options, setting=setting, dp="device", weighting="equal")
        uniform = replace(private, **POLICIES["uniform"])
        target = effective_noise(uniform)
        plain = replace(uniform, dp="none", epsilon=None, delta=None, clip_norm=1.0)
        rows.append(Row(options=plain, held="none", policy="uniform"))
        rows.append(Row(options=uniform, held="both", policy="uniform"))
        wanted: list[tuple[str, dict[str, Any], str]]
        wanted = [(policy, {}, "") for policy in policies if policy != "uniform"]
        wanted += [
            (policy, {"weighting": weighting}, "")
            for policy in crossed
            for weighting in WEIGHTINGS
            if weighting != "equal" and (policy, weighting) not in ALIKE
        ]
        wanted += [
            (policy, public_constants(replace(private, **POLICIES[policy])), "public scale")
            for policy in public
        ]
        for policy, changes, variant in wanted:
            equal = replace(private, **POLICIES[policy], **changes)
            noisy = replace(equal, epsilon=None, noise_multiplier=noise_like(equal, target))
            rows.append(Row(options=noisy, held="noise", policy=policy, variant=variant))
            rows.append(Row(options=equal, held="epsilon", policy=policy, variant=variant))
        for policy in retired:
            own = replace(private, **POLICIES[policy])
            sigma = noise_like(own, target)
            own = replace(own, epsilon=None, noise_multiplier=sigma, device_budget=options.epsilon)
            rows.append(Row(options=own, held="epsilon", policy=policy, variant="retirement"))
        for name in budgets:
            text = BUDGETS[name](options.epsilon or 0.0)
            own = replace(private, epsilon=None, selection="budgets", budgets=text)
            rows.append(Row(options=own, held="epsilon", policy="budgets", variant=name))
    return rows


def effective_noise(options: RunOptions) -> float:
    """Noise per coordinate of the mean update in units of the clip norm, as scheduled.

    Args:
      options: of a private run.

    Returns:
      Root mean square over rounds: what matters to a sum of updates is the sum of the variances.
    """
    schedule, selective = schedule_of(options), strategy_of(options)
    people = population_of(options).cut(schedule.periods, schedule.by, schedule.retention)
    prepare(selective, people, schedule)
    squares = []
    for period in (schedule.period(round) for round in range(1, schedule.rounds + 1)):
        plan = selective.plan(1, period, people.activity(period), options.seed)  # type: ignore[attr-defined]
        squares.append(plan.mechanism.effective_noise**2)
    return float(np.sqrt(np.mean(squares)))


def noise_like(options: RunOptions, target: float) -> float:
    """The noise multiplier at which a run has this effective noise, to four digits."""
    unit = replace(options, epsilon=None, noise_multiplier=1.0)
    return float(f"{target / effective_noise(unit):.4g}")


def public_constants(options: RunOptions) -> dict[str, Any]:
    """Options of the same policy under add/remove neighbours: scale, weight bound, denominator.

    The scale is the one that the first period's devices would fix, to two digits: what somebody
    would choose who knows such populations, but not this one.
    """
    schedule, policy = schedule_of(options), policy_of(options)
    people = population_of(options).cut(schedule.periods, schedule.by, schedule.retention)
    activity = people.activity(0)
    rates, scores = policy.rates(activity), policy.scores(activity)  # type: ignore[attr-defined]
    # The lightest device that holds anything is the last to be capped.
    lightest = np.flatnonzero(activity)[activity[activity > 0].argmin()]
    return {
        "adjacency": "add-remove",
        "scale": float(f"{rates[lightest] / scores[lightest]:.2g}"),
        "weight_cap": 1.0,
        "denominator": float(options.cohort),
    }
