"""One round as a value: what was planned before it, and what a finished round adds.

A plan holds the rates a cohort was drawn with and the weights its updates get. It travels with the
round, so that what ran and what is accounted cannot drift apart.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from fedsim.models.joint import Parameters
from fedsim.privacy.account import Account

Draw = Literal["poisson", "fixed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Who takes part in a round, how likely each device was to, and what it weighs.

    Attributes:
      round: from 1.
      period: from 0.
      seed: the run's; the round's noise follows from it.
      cohort: (drawn,) device ids, increasing.
      examples: (drawn,) examples each drawn device holds.
      weights: (drawn,) planned aggregation weights, >= 0; not normalised.
      rates: (devices,) participation rate of every device in this round, in [0, 1].
      device_weights: (devices,) the weight of every device, drawn or not.
      draw: "poisson" (independent coins) or "fixed" (fixed size, inclusion probability = rate).
      mechanism: what makes the round private at device level (a `Release`), or None.
    """

    round: int
    period: int
    seed: int
    cohort: np.ndarray
    examples: np.ndarray
    weights: np.ndarray
    rates: np.ndarray
    device_weights: np.ndarray
    draw: Draw
    mechanism: Any = None


SERVER = -1
"""The device id of a failure on the server's side."""


class Failure(NamedTuple):
    """A device whose reply did not count, or an aggregate that was not usable.

    Attributes:
      device: its id, or SERVER.
      stage: "unavailable" (it could not be asked, or its node was lost before it replied),
        "refused" (it has taken part as often as its privacy allows), "train" (it replied with an
        error), "dropout" (it trained, and its reply was lost), "late" (its reply came after the
        round had closed), "reply" (what it sent cannot be used), "missing", "evaluate" (in any of
        these ways, where devices evaluate), or "aggregate" (the strategy's result cannot be used;
        the old model stays).
      error: one line; it begins with "simulated: " where a simulated fault is to blame.
    """

    device: int
    stage: str
    error: str


class Scores(NamedTuple):
    """What a model says about a set of held-out examples, in their own order.

    Attributes:
      intents: (n,) predicted intent ids.
      slots: (words,) predicted slot label ids, flat as in `Examples.slots`.
      losses: (n,) joint losses.
    """

    intents: np.ndarray
    slots: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedRound:
    """Everything probes may read about a round that is over.

    Attributes:
      round: from 1.
      period: from 0.
      last: whether it is the last of the run.
      plan: the plan, or None under a bare Flower strategy.
      cohort: (drawn,) devices that were asked.
      arrived: (replies,) devices whose reply counted, increasing.
      examples: examples held by the devices asked, summed.
      failures: devices whose reply did not count, and an aggregate that did not.
      train_loss: example-weighted mean training loss over valid replies, or None without any.
      parameters: the new global model.
      evaluated: aggregated metrics of a strategy that evaluates on devices; empty otherwise.
      score: scores the new global model on the test set; called at most once.
      score_dev: the same on the dev set, or None where nobody asks for it.
      account: the ledgers, charged up to and including this round.
      map: applies a function to items on the run's workers, results in the order of the items.
    """

    round: int
    period: int
    last: bool
    plan: Plan | None
    cohort: np.ndarray
    arrived: np.ndarray
    examples: int
    failures: tuple[Failure, ...]
    train_loss: float | None
    parameters: Parameters
    evaluated: dict[str, float] = field(default_factory=dict)
    score: Callable[[], Scores]
    score_dev: Callable[[], Scores] | None = None
    account: Account = field(default_factory=Account)
    map: Callable[..., Iterable] = map

    @cached_property
    def test(self) -> Scores:
        """The new global model's scores on the test set, computed when first read."""
        return self.score()
