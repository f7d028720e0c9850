"""Any Flower strategy under any device-selection policy.

`Selective(FedAvg(), ActivitySelection(cohort=32))` plans every round (who takes part, at what rate,
with what weight), shows the wrapped strategy a grid that holds just the cohort, and writes the
planned weights into the replies before the strategy aggregates them. The strategy is not
subclassed.

Selection and weighting are separate choices. Sampling in proportion to examples goes with equal
weights, uniform sampling with weights by examples; doing both counts active devices twice. Flower
divides by the realised sum of weights, so inverse-rate weights n_i / q_i are self-normalised
(Hajek).

What a policy reads decides what may be claimed; it says so by an attribute `reads`:

- "activity", which it need not say: rates are a pure function of activity. Under device-level or
  example-level DP they are announced before the first round, and a policy that then gives others is
  refused (`Selective.plan`): neither they nor the noise ever depend on what was released, and the
  ledger may add up a history that was fixed in advance.
- "releases": `released(round, parameters)` is called after every round with the new global model,
  and rates may follow from it. Ordinary composition does not cover the sum then. Under device-level
  DP a Renyi filter stops each device within a budget fixed beforehand, and that budget is the claim
  (`fedsim.privacy.filtered_ledger`); example-level claims are infinite.
- "private": `replied(round, metrics)` is called as well, before aggregation, with what the devices
  said of themselves, such as their losses. No noise covers that: every epsilon is infinite.

An adaptive clip norm does depend on releases and needs none of this: noise follows it, so that
sigma stays.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from torch import Tensor

from fedsim.engine.cohort import CohortGrid
from fedsim.engine.replies import metrics_of
from fedsim.errors import ConfigError, require
from fedsim.plan import Draw, Plan
from fedsim.privacy.claim import Reads, reads_of, weakest
from fedsim.privacy.release import DeviceLevel
from fedsim.state import StrategyState
from strategies.draw import draw_cohort
from strategies.reading import check_policy
from strategies.selection import SelectionPolicy
from strategies.weighting import bounded_weights, weights_of

Weighting = Literal["auto", "examples", "equal", "inverse-rate"]
UNWEIGHTED = (FedMedian, FedTrimmedAvg, Krum, MultiKrum, Bulyan, QFedAvg)
"""Flower's rules that ignore weights: they compare devices, or weigh them by their losses."""

TREES = (FedXgbBagging, FedXgbCyclic)
"""Flower's rules that aggregate no parameters of a torch model."""


class Selective(Strategy):
    """A Flower strategy whose cohorts come from a selection policy.

    Args:
      strategy: the wrapped strategy; its `fraction_train` must be 1.
      policy: activity -> participation rates.
      weighting: "examples" (n_i), "equal", "inverse-rate" (n_i / q_i), or "auto", which is the
        policy's natural one: examples for uniform, equal for proportional activity, inverse-rate
        otherwise, and equal under device-level DP always. Strategies that ignore weights (FedMedian
        and the like) take "auto" alone, which is then "none".
      draw: "poisson" (independent coins) or "fixed" (fixed size, same rates).

    Raises:
      ConfigError: the strategy selects devices itself, or cannot use the weighting; or the policy
        reads more than it declares, or cannot be saved.
    """

    def __init__(
        self,
        strategy: Strategy,
        policy: SelectionPolicy,
        weighting: Weighting = "auto",
        draw: Draw = "poisson",
    ) -> None:
        name = type(strategy).__name__
        fraction = getattr(strategy, "fraction_train", 1.0)
        require(
            fraction == 1.0,
            f"fraction_train of {name} is {fraction}; inside Selective the policy selects, "
            "so leave it at 1.0",
        )
        known = ("auto", "examples", "equal", "inverse-rate")
        require(weighting in known, f"weighting is {weighting!r}; choose one of {', '.join(known)}")
        require(draw in ("poisson", "fixed"), f"draw is {draw!r}; choose one of poisson, fixed")
        unweighted = isinstance(strategy, UNWEIGHTED)
        require(
            not unweighted or weighting == "auto",
            f"{name} ignores weights, so weighting={weighting!r} would have no effect; "
            "leave it at 'auto'",
        )
        require(
            not isinstance(strategy, TREES),
            f"{name} aggregates trees, not the parameters of a torch model",
        )
        require(
            hasattr(strategy, "weighted_by_key"),
            f"{name} has no weighted_by_key, so planned weights cannot reach it",
        )
        check_policy(policy)
        self.strategy = strategy
        self.policy = policy
        self._reads = reads_of(policy)
        self.draw = draw
        natural = policy.natural_weighting if self.mechanism is None else "equal"
        natural = natural if weighting == "auto" else weighting
        self.weighting = "none" if unweighted else natural
        self._weights: dict[int, float] = {}
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._announced: dict[bytes, bytes] = {}

    @property
    def mechanism(self) -> DeviceLevel | None:
        """The wrapped strategy's device-level privacy, or None without any."""
        return getattr(self.strategy, "mechanism", None)

    @property
    def reads(self) -> Reads:
        """What decides who takes part: what the policy reads, and the noise, for which devices may
        have to sit a round out."""
        return weakest([self._reads, reads_of(self.strategy)])

    def prepare(
        self, activities: Sequence[np.ndarray], rounds: Sequence[int], *, claimed: bool = False
    ) -> int | None:
        """Let a private strategy resolve what depends on who takes part, and for how long.

        Args:
          activities: (devices,) examples each device holds, of every period.
          rounds: of every period.
          claimed: whether devices protect their examples, so that a claim rests on the rates even
            where the strategy is not private.

        Returns:
          The last round that its budget allows, or None where it allows all.

        Raises:
          ConfigError: the privacy that was asked for cannot be had.
        """
        if self.mechanism is None and not claimed:
            return None
        periods, announced = [], {}
        self._announced = {}
        for activity, count in zip(activities, rounds, strict=True):
            rates, weights = self._rates_and_weights(activity)
            announced[_digest(activity)] = _digest(rates, weights)
            periods.append((rates, weights, count))
        self._announced = announced
        if self.mechanism is None:
            return None
        return self.strategy.prepare(  # type: ignore[attr-defined]
            periods,
            independent=self.draw == "poisson",
            cap=getattr(self.policy, "public_cap", None),
            reads=self._reads,
        )

    def plan(self, round: int, period: int, activity: np.ndarray, seed: int) -> Plan:
        """Plan one round; a pure function of its arguments, of what was released or replied where
        the policy reads it, and of rates scheduled before where devices retire.

        Args:
          round: from 1.
          period: from 0.
          activity: (devices,) examples each device holds in the period.
          seed: the run's.

        Raises:
          ConfigError: the policy declares to read something else than at the start; or, where
            privacy is claimed, other rates or weights than were announced, of one that did not
            declare it.
        """
        rates, weights = self._rates_and_weights(activity)
        release = None
        if self.mechanism is not None:
            release, rates = self.strategy.release(  # type: ignore[attr-defined]
                round, rates, weights, independent=self.draw == "poisson"
            )
        cohort = draw_cohort(rates, self.draw, seed, round)
        return Plan(
            round=round,
            period=period,
            seed=seed,
            cohort=cohort,
            examples=activity[cohort],
            weights=weights[cohort],
            rates=rates,
            device_weights=weights,
            draw=self.draw,
            mechanism=release,
        )

    def _rates_and_weights(self, activity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of every device; computed once a period where they follow from activity alone, because
        that changes no more often."""
        name, reads = type(self.policy).__name__, reads_of(self.policy)
        # What is claimed was settled by what it declared before the first round.
        require(
            reads == self._reads,
            f"reads of {name} was {self._reads!r} when the strategy was made and is now {reads!r}; "
            "let it stay the same",
        )
        pure = reads == "activity"
        if pure and self._known is not None and np.array_equal(self._known[0], activity):
            return self._known[1:]
        # Copies: a policy that writes into an array it was given, or gave, changes no round by it.
        rates = np.array(self.policy.rates(activity.copy()), np.float64)
        proper = rates.shape == activity.shape and ((rates >= 0) & (rates <= 1)).all()
        require(
            bool(proper),
            f"rates() of {name} gave {rates}; give each of the {len(activity)} devices a "
            "probability",
        )
        if self.mechanism is None:
            weights = weights_of(self.weighting, activity, rates)
        else:
            weights = bounded_weights(self.weighting, activity, rates, self.mechanism)
        if self._announced:
            announced = self._announced.get(_digest(activity))
            require(
                announced is not None,
                "a round's activity is that of no period that was announced before the first "
                "round, and nothing covers rates that are made up later; plan with the "
                "population that prepare() was given",
            )
            require(
                not pure or announced == _digest(rates, weights),
                f"{name} gives other rates for the same activity than "
                "before the first round; let rates() be a pure function of activity, or declare "
                "what it reads: reads = 'releases' for models that were released (a filter then "
                "keeps each device within device_budget), reads = 'private' for anything else of "
                "the devices' (every epsilon is then infinite)",
            )
        self._known = (activity, rates, weights)
        return rates, weights

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages of the wrapped strategy to exactly the cohort of the grid's plan."""
        if not isinstance(grid, CohortGrid):
            raise ConfigError(
                "Selective needs a round's plan; run it through fedsim.Simulation, not start()"
            )
        plan = grid.plan
        self._weights = dict(zip(plan.cohort.tolist(), plan.weights.tolist(), strict=True))
        minimum = max(
            getattr(self.strategy, "min_train_nodes", 0),
            getattr(self.strategy, "min_available_nodes", 0),
        )
        with grid.padded(minimum):
            messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        return grid.real(messages)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate under the planned weights; devices of weight 0 are left out."""
        if hasattr(self.policy, "replied"):
            replies = list(replies)
            said = {reply.metadata.src_node_id: dict(metrics_of(reply)) for reply in replies}
            self.policy.replied(server_round, said)
        weighted = []
        for reply in replies:
            weight = self._weights[reply.metadata.src_node_id]
            if weight > 0:
                metrics = metrics_of(reply)
                metrics[self.strategy.weighted_by_key] = weight  # type: ignore[attr-defined]
                weighted.append(reply)
        return self.strategy.aggregate_train(server_round, weighted)

    def released(self, round: int, parameters: Mapping[str, Tensor]) -> None:
        """Tell who reads it what a round's new global model is: a copy each, never the model.

        Args:
          round: from 1.
          parameters: the model, by name.
        """
        if hasattr(self.policy, "released"):
            self.policy.released(round, {name: p.clone() for name, p in parameters.items()})
        if hasattr(self.strategy, "released"):
            self.strategy.released(round, parameters)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """None: probes evaluate."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """None: probes evaluate."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What the wrapped strategy remembers, and the policy where it reads more than activity."""
        remembers = self._reads != "activity"
        return {
            "strategy": StrategyState(self.strategy).state_dict(),
            "policy": self.policy.state_dict() if remembers else None,  # type: ignore[attr-defined]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let wrapped strategy and policy go on from a saved state."""
        StrategyState(self.strategy).load_state_dict(state["strategy"])
        if state["policy"] is not None:
            self.policy.load_state_dict(state["policy"])  # type: ignore[attr-defined]

    def summary(self) -> None:
        """The wrapped strategy's."""
        self.strategy.summary()


def _digest(*arrays: np.ndarray) -> bytes:
    """Tells arrays apart without keeping them."""
    return hashlib.blake2b(b"".join(a.tobytes() for a in arrays), digest_size=16).digest()
