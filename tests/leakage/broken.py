"""Which mechanisms promise privacy and do not keep it? The real ones, each with one part replaced.

Nothing here is a toy: what is not overridden is fedsim's own clipping, summing, drawing, noising
and accounting.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from fedsim.models import BiLSTMTagger
from fedsim.privacy import ExampleLevel
from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.filtered_ledger import FilteredLedger
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.release import DeviceLevel, Release
from fedsim.training.dpsgd import DPSGD
from fedsim.training.kernel import clipped_gradient
from strategies import PrivateAggregation


@dataclass(frozen=True, kw_only=True)
class Planted(DeviceLevel):
    """Device-level privacy whose releases are of a broken kind."""

    kind: type[Release]

    def release(self, **round) -> Release:
        sound = super().release(**round)
        return self.kind(**{f.name: getattr(sound, f.name) for f in fields(sound)})


class Unclipped(Release):
    """No clipping: updates are weighed and summed as they come."""

    def mean(self, updates, size, noise):
        return _mean(self, updates, size, noise, clip_norm=np.inf)


class ClippedSum(Release):
    """Clip after summing: the sum has the norm that each update should have."""

    def mean(self, updates, size, noise):
        total = sum((weight * update.double() for weight, update in updates), torch.zeros(size))
        return super().mean([(self.largest_weight, total)], size, noise)


class HalfNoise(Release):
    """Half the noise that the ledger is told of."""

    def mean(self, updates, size, noise):
        return super().mean(updates, size, lambda size: noise(size) / 2)


class Overweight(Release):
    """Noise made for the lightest device, and weights that nobody bounds."""

    @property
    def sensitivity(self) -> float:
        return self.clip_norm * LIGHTEST

    def mean(self, updates, size, noise):
        return _mean(self, updates, size, noise, clip_norm=self.clip_norm)


LIGHTEST = 0.05
"""Weight that `Overweight` believes to be the largest."""


class WrongRate(Release):
    """Every device is charged at the average rate."""

    def event(self, rates, weights, *, independent):
        average = np.full(len(rates), rates.mean())
        return super().event(average, weights, independent=independent)


class LedgerReset(PrivateAggregation):
    """A new ledger in every round: each looks like the first."""

    def configure_train(self, *round):
        self._ledger = DeviceLedger(self.ledger.devices, self.ledger.delta)
        return super().configure_train(*round)


class Forgetful(FilteredLedger):
    """A filter that forgets the charge of every third round."""

    def charge(self, planned, cohort):
        before, self.rounds = self._spent, getattr(self, "rounds", 0) + 1
        super().charge(planned, cohort)
        if self.rounds % 3 == 0:
            self._spent = before


class Refunding(PrivateAggregation):
    """A device that drops out gets its participation back."""

    def aggregate_train(self, server_round, replies):
        replies, plan = list(replies), self._plan
        arrived = [reply.metadata.src_node_id for reply in replies]
        gone = np.setdiff1d(plan.cohort, arrived)
        spent = plan.mechanism.event(plan.rates, plan.device_weights, independent=True)
        self.ledger._squares[gone] -= (spent.weights[gone] / spent.noise) ** 2
        return super().aggregate_train(server_round, replies)


class SameNoise(DPSGD):
    """The generator starts anew at every step."""

    def step(self, state, batch):
        start = state.get("noise")
        state = super().step(state, batch)
        return state if start is None else state | {"noise": start}


class SilentWhenEmpty(DPSGD):
    """A step that nobody was drawn for is skipped, noise and all."""

    def step(self, state, batch):
        return super().step(state, batch) if batch["weight"].any() else state


@dataclass(frozen=True, kw_only=True)
class MicroBatchesAtSigma(MicroBatches):
    """Clipped means, accounted as if they were clipped examples."""

    @property
    def sensitivity(self) -> float:
        return self.within.bound


@dataclass(frozen=True, kw_only=True)
class ProductRate(ExampleLevel):
    """Local steps charged at the rate of the batch times that of the device."""

    device_rate: float

    def events(self, first, steps, rate):
        return super().events(first, steps, rate * self.device_rate)


class BatchMean(BiLSTMTagger):
    """A loss that is a mean over all words of the batch."""

    def losses(self, parameters, batch):
        each = super().losses(parameters, batch) * batch["lengths"]
        return each / batch["lengths"].sum()


class TwoBiases(BiLSTMTagger):
    """An LSTM with two trained biases, as `nn.LSTM` has them."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.lstm_second_bias = torch.nn.Parameter(torch.zeros_like(self.lstm_bias))

    def encode(self, parameters, words, packing):
        if "lstm_second_bias" in parameters:
            both = parameters["lstm_bias"] + parameters["lstm_second_bias"]
            parameters = parameters | {"lstm_bias": both}
        return super().encode(parameters, words, packing)


def second_bias_uncounted(losses, parameters, batch, clip_norm):
    """The kernel's clipped sum of `TwoBiases`, whose norms know of one bias only."""
    # One bias stands for both: the model depends on their sum alone.
    counted = dict(parameters)
    counted["lstm_bias"] = counted["lstm_bias"] + counted.pop("lstm_second_bias")
    clipped = clipped_gradient(losses, counted, batch, clip_norm)
    clipped.gradients["lstm_second_bias"] = clipped.gradients["lstm_bias"].clone()
    return clipped


def _mean(release, updates, size, noise, *, clip_norm):
    """Like the sound mean, but for what is clipped to, and with weights as they come."""
    bare = Release(
        clip_norm=clip_norm,
        noise_multiplier=0.0,
        sum_noise_multiplier=0.0,
        largest_weight=np.inf,
        denominator=release.denominator,
        adjacency=release.adjacency,
    )
    total, _ = bare.mean(updates, size, noise)
    noised, bits = Release.mean(release, [], size, noise)
    return total + noised, bits
