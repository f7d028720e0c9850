"""Any Flower server optimizer on a model update that is private at device level.

`Selective(PrivateAggregation(FedAdam(), DeviceLevel(noise_multiplier=1.0)), policy)`: the updates
of a round are clipped, weighed, summed, noised and divided by a constant
(`fedsim.privacy.release`), and the wrapped strategy is handed exactly one reply, the global model
plus the private mean update at weight 1, also when nobody came. Whatever it does with that is
post-processing, so it may be any optimizer; rules that compare devices need their updates one by
one and are refused.

What the devices say of themselves (losses, numbers of examples) is never read: weights come from
the round's plan.

The noise multiplier may change from round to round, by a `NoiseSchedule`. Its rounds are priced as
if it followed what was released, whether it does or not: by a filter, at a budget for every device.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.engine.cohort import CohortGrid
from fedsim.engine.flower import to_parameters, to_record
from fedsim.errors import ConfigError, require
from fedsim.plan import Plan
from fedsim.privacy.claim import Reads, reads_of, weakest
from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.device_noise import Period, last_round, opened, resolved
from fedsim.privacy.events import NonPrivate
from fedsim.privacy.filtered_ledger import FilteredLedger
from fedsim.privacy.noise import Normal, secure, seeded
from fedsim.privacy.release import DeviceLevel, Release
from fedsim.state import StrategyState
from strategies.reading import NoiseSchedule, check_noise
from strategies.selective import TREES, UNWEIGHTED, Selective

COMPARING = (*UNWEIGHTED, *TREES)
"""Rules that need every device's own update, or its loss."""

PRIVATE_ALREADY = (
    flower.DifferentialPrivacyServerSideFixedClipping,
    flower.DifferentialPrivacyServerSideAdaptiveClipping,
    flower.DifferentialPrivacyClientSideFixedClipping,
    flower.DifferentialPrivacyClientSideAdaptiveClipping,
)
"""Flower's own wrappers, whose noise nobody would account for."""


class PrivateAggregation(Strategy):
    """A server optimizer that sees only private mean updates; goes inside `Selective`.

    Args:
      strategy: the server optimizer: FedAvg, FedAvgM, FedAdam, FedProx, ...
      mechanism: clip norm, noise and what neighbours differ in.
      noise: the noise multiplier of every round, where it does not stay at the mechanism's; needs
        `mechanism.device_budget`.

    Raises:
      ConfigError: the strategy compares devices, selects them, or is private already; or the noise
        does not begin at the mechanism's, cannot be saved, or goes with a fixed noise on clip bits.

    Example:
      >>> from flwr.serverapp.strategy import FedAvg, FedMedian
      >>> PrivateAggregation(FedMedian(), DeviceLevel(noise_multiplier=1.0))
      Traceback (most recent call last):
      fedsim.errors.ConfigError: FedMedian compares devices, and under device-level DP ...
    """

    def __init__(
        self, strategy: Strategy, mechanism: DeviceLevel, noise: NoiseSchedule | None = None
    ) -> None:
        name = type(strategy).__name__
        require(
            not isinstance(strategy, COMPARING),
            f"{name} compares devices, and under device-level DP no update may be seen on its own; "
            "choose a server optimizer such as FedAvg or FedAdam",
        )
        require(
            not isinstance(strategy, PRIVATE_ALREADY),
            f"{name} adds noise that no ledger would know of; give PrivateAggregation the strategy "
            "inside it",
        )
        require(
            not isinstance(strategy, Selective | PrivateAggregation),
            f"{name} cannot go inside PrivateAggregation; the order is "
            "Selective(PrivateAggregation(FedAvg(), mechanism), policy)",
        )
        if noise is not None:
            check_noise(noise, mechanism)
        self.strategy = strategy
        self.mechanism = mechanism
        self.noise = noise
        self._reads: Reads = "activity"
        if noise is not None:
            self._reads = weakest(["releases", reads_of(noise)])
        self.clip_norm = mechanism.clip_norm
        self._ledger: DeviceLedger | FilteredLedger | None = None
        self._plan: Plan | None = None
        self._sent: dict[str, Tensor] = {}

    @property
    def weighted_by_key(self) -> str:
        """Name under which the wrapped strategy reads weights."""
        return self.strategy.weighted_by_key  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        """What `Selective` asks of a strategy: fractions and least numbers of nodes."""
        if name in ("fraction_train", "min_train_nodes", "min_available_nodes", "proximal_mu"):
            return getattr(self.strategy, name)
        raise AttributeError(name)

    @property
    def reads(self) -> Reads:
        """What noise and, once the strategy is prepared, rates depend on."""
        return self._reads

    @property
    def ledger(self) -> DeviceLedger | FilteredLedger:
        """Every device's account; there is one once the strategy is prepared."""
        assert self._ledger is not None, "Simulation prepares strategies"
        return self._ledger

    def prepare(
        self,
        periods: Sequence[Period],
        *,
        independent: bool,
        cap: float | None,
        reads: Reads = "activity",
    ) -> int | None:
        """Open the ledger, find the noise where a target epsilon is given, and the last round.

        Args:
          periods: (rates (devices,), weights (devices,), rounds) of each.
          independent: whether cohorts are drawn by independent coins.
          cap: public bound on every rate, or None without one.
          reads: what the rates depend on.

        Returns:
          The last round that the run's budget allows; None where it allows all.

        Raises:
          ConfigError: delta is too large, no noise reaches the target, a bound is missing, or a
            budget is spent by the first round, or is missing where rates or noise follow releases.
        """
        self._reads = weakest([self._reads, reads])
        self.mechanism = resolved(
            self.mechanism, periods, independent=independent, cap=cap, reads=self._reads
        )
        self._ledger = opened(self.mechanism, periods, independent=independent, cap=cap)
        return last_round(self.mechanism, periods, independent=independent, cap=cap)

    def release(
        self, round: int, rates: np.ndarray, weights: np.ndarray, *, independent: bool
    ) -> tuple[Release, np.ndarray]:
        """The mechanism of a round at the present clip norm and noise, and the rates it has then.

        Args:
          round: from 1.
          rates: (devices,) participation rates, as scheduled.
          weights: (devices,) weight of every device that may come.
          independent: whether the cohort is drawn by independent coins.

        Returns:
          The mechanism, and (devices,) rates: 0 for a device that the round would take above its
          budget. No other rate changes for it.

        Raises:
          ConfigError: the noise schedule gives no positive noise.
        """
        mechanism, scheduled = self.mechanism, rates
        if self.noise is not None:
            # Asked once a round: who can pay is decided at the noise that is then added.
            sigma = float(self.noise.noise_multiplier(round))
            require(
                0 < sigma < math.inf,
                f"noise_multiplier({round}) of {type(self.noise).__name__} is {sigma}; let it give "
                "finite numbers above 0",
            )
            mechanism = replace(mechanism, noise_multiplier=sigma)
        if mechanism.device_budget is not None:
            full = mechanism.release(rates=rates, weights=weights, clip_norm=self.clip_norm)
            within = self.ledger.affordable(full.event(rates, weights, independent=independent))
            rates = np.where(within, rates, 0.0)
        release = mechanism.release(
            rates=rates, weights=weights, clip_norm=self.clip_norm, scheduled=scheduled
        )
        return release, rates

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's messages; the plan and the model sent are kept for the sum."""
        if not isinstance(grid, CohortGrid):
            raise ConfigError(
                "PrivateAggregation needs the rates of a round; wrap it in Selective(..., policy)"
            )
        plan = grid.plan
        self._plan = plan
        # Charged at the draw, whatever becomes of it.
        independent = plan.draw == "poisson"
        spent = plan.mechanism.event(plan.rates, plan.device_weights, independent=independent)
        if self._reads == "private":
            # The noise covers the sum, and not what its rates or its noise gave away.
            spent = replace(spent, event=NonPrivate())
        self.ledger.charge(spent, plan.cohort)
        self._sent = to_parameters(arrays)
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, sum, noise, divide, and let the wrapped strategy take one step.

        Args:
          server_round: the plan's.
          replies: those that count, in device order; the others are zero vectors.
        """
        plan, sent = self._plan, self._sent
        assert plan is not None, "configure_train comes first"
        release: Release = plan.mechanism
        weights = dict(zip(plan.cohort.tolist(), plan.weights.tolist(), strict=True))
        flat = torch.cat([p.flatten() for p in sent.values()])
        draw: Normal = secure
        if not self.mechanism.secure_noise:
            draw = seeded(plan.seed, "device-noise", server_round)
        mean, unclipped = release.mean(
            ((weights[r.metadata.src_node_id], _flat(r, sent) - flat) for r in replies),
            len(flat),
            draw,
        )
        adaptive = self.mechanism.adaptive
        if adaptive is not None and unclipped is not None:
            # No fraction is further than 1 from its target; noise on a small cohort's may be.
            gap = min(1.0, max(-1.0, unclipped - adaptive.target))
            self.clip_norm *= math.exp(-adaptive.rate * gap)
        parts = (flat + mean).to(flat.dtype).split([p.numel() for p in sent.values()])
        new = {name: part.view_as(sent[name]) for name, part in zip(sent, parts, strict=True)}
        metrics = MetricRecord({self.weighted_by_key: 1.0})
        content = RecordDict({"arrays": to_record(new), "metrics": metrics})
        only = Message(content, dst_node_id=0, message_type="train")
        return self.strategy.aggregate_train(server_round, [only])

    def released(self, round: int, parameters: Mapping[str, Tensor]) -> None:
        """Tell the noise schedule, if any, what a round's new global model is."""
        if self.noise is not None:
            self.noise.released(round, {name: p.clone() for name, p in parameters.items()})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """None: what devices report of themselves is not private."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """None: nobody was asked."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """The clip norm, the ledger, and what noise schedule and wrapped strategy remember."""
        return {
            "clip_norm": self.clip_norm,
            "noise": None if self.noise is None else self.noise.state_dict(),
            "ledger": None if self._ledger is None else self._ledger.state_dict(),
            "strategy": StrategyState(self.strategy).state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.clip_norm = state["clip_norm"]
        self.ledger.load_state_dict(state["ledger"])
        if self.noise is not None:
            self.noise.load_state_dict(state["noise"])
        StrategyState(self.strategy).load_state_dict(state["strategy"])

    def summary(self) -> None:
        """The wrapped strategy's."""
        self.strategy.summary()


def _flat(reply: Message, like: dict[str, Tensor]) -> Tensor:
    """The parameters of a reply as one vector, in the order of the model sent."""
    (arrays,) = reply.content.array_records.values()
    return torch.cat([p.flatten() for p in to_parameters(arrays, like).values()])
