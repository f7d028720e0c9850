"""What does a participation cost under DP-SGD on the devices, and how much noise does it need?

A participation of a device with n examples is a run of local steps. Each takes every example by its
own coin of rate q_e = min(1, b / n), so that a device with fewer than b examples takes all of them
every time, and there are local_epochs x ceil(n / b) steps, or as many as configured. Neighbouring
data differ in one record of one device (zero-out, n public), so the guarantee is the largest of the
devices' own (parallel composition: McSherry, SIGMOD 2009).

The coin that chose the device gives no amplification: all steps of a round share it, and the server
sees who came. A drawn participation is charged in full, failures included, and never refunded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fedsim.errors import ConfigError, require
from fedsim.privacy.calibration import noise_multiplier_for
from fedsim.privacy.clipping import Clipping, Flat
from fedsim.privacy.delta import delta_for
from fedsim.privacy.events import Event, Gaussian, rounded
from fedsim.privacy.groups import Groups
from fedsim.privacy.noise_decay import NoiseDecay
from fedsim.privacy.renyi import divergences, to_epsilon
from fedsim.privacy.rounding import TAU, Precision

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.privacy.release import AdaptiveClipping


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """How a device goes through its examples in a round.

    Attributes:
      batch_size: expected examples a step, >= 1.
      local_epochs: passes, >= 1.
      local_steps: steps instead of passes, or None.

    Example:
      >>> local = LocalSteps(batch_size=16)
      >>> [(n, local.rate(n), local.steps(n)) for n in (0, 11, 124)]
      [(0, 0.0, 1), (11, 1.0, 1), (124, 0.12903225806451613, 8)]
    """

    batch_size: int = 16
    local_epochs: int = 1
    local_steps: int | None = None

    def rate(self, examples: int) -> float:
        """Probability that an example is in a step; 0 where there is none to protect."""
        return min(1.0, self.batch_size / examples) if examples else 0.0

    def steps(self, examples: int) -> int:
        """Steps of one participation; one of noise alone where the device holds nothing."""
        if self.local_steps is not None:
            return self.local_steps
        return self.local_epochs * max(1, math.ceil(examples / self.batch_size))


@dataclass(frozen=True, kw_only=True)
class ExampleLevel:
    """DP-SGD on every device: each example is protected.

    Attributes:
      clip_norm: C, what gradients are clipped to, > 0; infinite only without noise.
      delta: in (0, 1), and below 1 over the number of examples; None is 1e-5, or a tenth of 1 over
        the number of examples where that is smaller.
      noise_multiplier: standard deviation of the first step's noise in units of C, >= 0; or None
        with `epsilon`.
      epsilon: target instead of a noise multiplier, for `max_participations`.
      max_participations: after so many a device refuses, >= 1; or None for no bound.
      clipping: what is clipped as one, and how, hence how far a record moves a step's sum.
      adaptive: how the clip norm follows gradients, or None; clip bits are paid for by more noise
        on the sum, so that a step costs the same.
      decay: how the noise falls over the steps of a participation.
      secure_noise: take the noise from the operating system; no run is then like another.
      precision: of the devices' passes, as `NLUClient` sets it; in bfloat16 a record may move a
        sum by a share of tau more (`fedsim.privacy.rounding`).

    Example:
      >>> private = ExampleLevel(clip_norm=1.0, epsilon=8.0, delta=1e-5, max_participations=10)
      >>> known = private.calibrated(np.array([2, 124]), LocalSteps(batch_size=16))
      >>> round(known.noise_multiplier, 2)
      1.9
    """

    clip_norm: float = 1.0
    delta: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    max_participations: int | None = None
    clipping: Clipping = field(default_factory=Flat)
    adaptive: "AdaptiveClipping | None" = None
    decay: NoiseDecay = field(default_factory=NoiseDecay)
    secure_noise: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        sigma, most = self.noise_multiplier, self.max_participations
        require(self.clip_norm > 0, f"clip_norm is {self.clip_norm}; choose more than 0")
        require(
            self.delta is None or 0 < self.delta < 1,
            f"delta is {self.delta}; choose a probability between 0 and 1",
        )
        require(
            (sigma is None) != (self.epsilon is None),
            f"noise_multiplier is {sigma} and epsilon is {self.epsilon}; give exactly one of them",
        )
        require(
            sigma is None or 0 <= sigma < math.inf,
            f"noise_multiplier is {sigma}; choose 0 or more, and finite",
        )
        require(
            self.epsilon is None or self.epsilon > 0,
            f"epsilon is {self.epsilon}; choose more than 0",
        )
        require(most is None or most >= 1, f"max_participations is {most}; choose 1 or more")
        require(
            self.epsilon is None or most is not None,
            f"epsilon is {self.epsilon} without max_participations; say how often a device may "
            "take part, since every participation costs",
        )

    @property
    def sensitivity(self) -> float:
        """How far one record moves a step's sum, in units of C."""
        return self.clipping.sensitivity * rounded(TAU[self.precision])

    def sized_for(
        self, parameters: Mapping[str, "Tensor"], precision: Precision = "float32"
    ) -> "ExampleLevel":
        """The same with the thresholds of a model of these parameters, and how it is passed."""
        return replace(self, clipping=self.clipping.sized_for(parameters), precision=precision)

    def participation(self, examples: int, local: LocalSteps) -> list[Event]:
        """The events of one participation of a device, one for every stretch of equal noise.

        Args:
          examples: n_i, what the device holds in the round.
          local: how it goes through them.
        """
        return self.events(0, local.steps(examples), local.rate(examples))

    def events(self, first: int, steps: int, rate: float) -> list[Event]:
        """The events of some steps of one participation, each at its own noise.

        Args:
          first: number of steps taken before, since the noise began to fall.
          steps: how many follow, >= 1.
          rate: probability that an example is in a step.
        """
        require(
            self.noise_multiplier is not None,
            f"epsilon is {self.epsilon}, but no noise is known yet; call calibrated() first",
        )
        sigma = self.noise_multiplier or 0.0
        return [
            Gaussian(
                noise_multiplier=sigma * fall, rate=rate, steps=steps, sensitivity=self.sensitivity
            )
            for fall, steps in self.decay.stretches(steps, first)
        ]

    def resolved(self, examples: np.ndarray, units: int, local: LocalSteps) -> "ExampleLevel":
        """The same with its delta, and its noise where a target epsilon is given.

        Args:
          examples: as in `calibrated`.
          units: how many are protected by the run's delta.
          local: how devices go through their examples.

        Raises:
          ConfigError: delta is not below 1 / units, or no noise reaches the target.
        """
        delta = delta_for(units, self.delta, "examples")
        return replace(self, delta=delta).calibrated(examples, local)

    def calibrated(self, examples: np.ndarray, local: LocalSteps) -> "ExampleLevel":
        """The same with the least noise that keeps every device within `epsilon`.

        Where a device holds now more and now fewer examples, its participations mix, and no single
        kind need be the worst; then the largest Renyi divergence of any kind at each order bounds
        every mixture, and the epsilon that is spent lies below the target.

        Args:
          examples: n_i of every device, (devices,), or of every period, (periods, devices).
          local: how devices go through them.

        Raises:
          ConfigError: delta is not known yet, or no noise reaches the target.
        """
        if self.epsilon is None:
            return self
        delta = self.delta
        if delta is None:
            raise ConfigError("delta is None, and no noise is found without one; choose it")
        kinds = np.unique(examples[examples > 0]).tolist()
        require(bool(kinds), "no device holds an example, so there is nothing to calibrate for")
        most = self.max_participations or 1
        stretches = [list(self.decay.stretches(local.steps(n))) for n in kinds]
        table = np.zeros((len(kinds), max(map(len, stretches)), 2))
        table[..., 0] = 1.0
        for row, found in zip(table, stretches, strict=True):
            row[: len(found)] = found
        unit = Groups(
            rates=np.broadcast_to([[local.rate(n)] for n in kinds], table.shape[:2]),
            noises=table[..., 0] / self.sensitivity,
            times=most * table[..., 1].astype(np.int64),
            members=np.ones(len(kinds), np.int64),
        )

        def worst(noise_multiplier: float) -> float:
            scaled = unit.with_noise(noise_multiplier)
            bounds = scaled.bounds(delta)
            return scaled.worst(bounds, delta, np.arange(len(kinds))).epsilon

        def worst_mixture(noise_multiplier: float) -> float:
            noise = noise_multiplier / self.sensitivity
            spent = [
                [most * steps * divergences(local.rate(n), noise * fall) for fall, steps in each]
                for n, each in zip(kinds, stretches, strict=True)
            ]
            worst_of_each = np.max([np.sum(each, axis=0) for each in spent], axis=0)
            return float(to_epsilon(worst_of_each, delta))

        sigma = noise_multiplier_for(self.epsilon, worst_mixture if _vary(examples) else worst)
        return replace(self, noise_multiplier=sigma, epsilon=None)


def _vary(examples: np.ndarray) -> bool:
    """Whether a device holds different numbers of examples, none apart, over the periods."""
    rows = np.atleast_2d(examples)
    least = np.where(rows > 0, rows, rows.max(axis=0)).min(axis=0)
    return bool((least < rows.max(axis=0)).any())
