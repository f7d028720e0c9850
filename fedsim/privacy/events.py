"""What did a mechanism do, as a value that can be priced?

An event says what was added to what: Gaussian noise of `noise_multiplier` x C on a sum in which one
protected unit can move the result by `sensitivity` x C, where the unit takes part with probability
`rate`, by an independent coin at each of `steps` steps. Events are immutable and say nothing about
epsilon; `fedsim.privacy.accounting` prices lists of them. What has no proof of a bound is
`NonPrivate`, and its epsilon is infinite.

Where the sensitivity is not C (the fixed numbers are in the literature, the rest follows from the
triangle inequality):

- micro-batches, clipped one by one: 2 C, since a record turns one clipped mean into another
  (`MICRO_BATCHES`), also when records are added, removed or zeroed;
- thresholds C_l per layer: sqrt(sum of C_l^2) (`layer_wise`);
- passes in bfloat16, where rounding may let a clipped gradient be tau longer: C (1 + tau)
  (`rounded`, `fedsim.privacy.rounding`);
- adaptive clipping spends part of the noise on the count of unclipped updates: Andrew et al.,
  https://arxiv.org/abs/1905.03871, theorem 1 (`noise_beside_clip_bit`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedsim.errors import require

MICRO_BATCHES = 2.0
"""Sensitivity, in units of C, where the mean gradient of a micro-batch is clipped as one."""


@dataclass(frozen=True, kw_only=True)
class NonPrivate:
    """Something was released without a proof of any bound; epsilon is infinite for ever after."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Independent Gaussian sums, each taken part in with the same probability.

    Attributes:
      noise_multiplier: standard deviation of the noise in units of the clip norm C, >= 0; 0 is no
        noise, and not private.
      rate: probability that the protected unit is in the sum of a step, by its own coin; 1 is a sum
        that it is always in.
      steps: number of such sums, >= 1.
      sensitivity: how far one unit moves the sum, in units of C, > 0.

    Example:
      >>> Gaussian(noise_multiplier=1.0, sensitivity=MICRO_BATCHES).sampled(0.01).times(1000)
      Gaussian(noise_multiplier=1.0, rate=0.01, steps=1000, sensitivity=2.0)
    """

    noise_multiplier: float
    rate: float = 1.0
    steps: int = 1
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        require(
            0 <= self.noise_multiplier < math.inf,
            f"noise_multiplier is {self.noise_multiplier}; choose 0 (no noise) or more, and finite",
        )
        require(0 <= self.rate <= 1, f"rate is {self.rate}; a probability lies in [0, 1]")
        require(
            self.steps >= 1 and self.steps == int(self.steps),
            f"steps is {self.steps}; choose a whole number, 1 or more",
        )
        require(
            0 < self.sensitivity < math.inf,
            f"sensitivity is {self.sensitivity}; choose a finite number above 0",
        )

    @property
    def noise(self) -> float:
        """Effective noise: standard deviation over sensitivity, all that epsilon depends on."""
        return self.noise_multiplier / self.sensitivity

    def sampled(self, rate: float) -> "Gaussian":
        """The same sum when a further independent coin of this probability decides on taking part.

        Raises:
          ConfigError: the event has several steps. They would share the coin, and to multiply its
            rate into each of them, as if each had a coin of its own, understates epsilon.

        Example:
          >>> Gaussian(noise_multiplier=1.0, rate=0.1, steps=10).sampled(0.05)
          Traceback (most recent call last):
          fedsim.errors.ConfigError: a coin of rate 0.05 over 10 steps at once is not a coin a step;
          charge the steps of every participation in full
        """
        require(
            self.steps == 1,
            f"a coin of rate {rate:g} over {self.steps} steps at once is not a coin a step; "
            "charge the steps of every participation in full",
        )
        return replace(self, rate=self.rate * rate)

    def times(self, times: int) -> "Gaussian":
        """The same again and again, with fresh coins and fresh noise."""
        return replace(self, steps=self.steps * times)


Event = Gaussian | NonPrivate


def layer_wise(clip_norms: Iterable[float]) -> float:
    """Joint sensitivity of layers clipped one by one, in the unit of the clip norms.

    Example:
      >>> layer_wise([3.0, 4.0])
      5.0
    """
    return math.sqrt(sum(norm**2 for norm in clip_norms))


def rounded(tau: float) -> float:
    """Sensitivity, in units of C, where rounding lets a clipped norm exceed C by a factor 1 + tau.

    Args:
      tau: measured for the number format and the shapes, >= 0.
    """
    require(tau >= 0, f"tau is {tau}; rounding never makes the bound smaller, choose 0 or more")
    return 1.0 + tau


def noise_beside_clip_bit(noise_multiplier: float, bit_noise: float) -> float:
    """Noise multiplier of the updates, so that updates and clip bit together cost what was asked.

    sigma_Delta = (sigma^-2 - (2 sigma_b)^-2)^(-1/2): the bit, shifted by 1/2, has sensitivity 1/2.

    Args:
      noise_multiplier: sigma, what the pair is to cost as one Gaussian, >= 0.
      bit_noise: sigma_b, standard deviation of the noise on the sum of bits, > sigma / 2.

    Raises:
      ConfigError: the bit alone would cost more than the pair may.

    Example:
      >>> round(noise_beside_clip_bit(1.0, 10.0), 5)
      1.00125
    """
    require(
        bit_noise > noise_multiplier / 2,
        f"the clip bit's noise is {bit_noise:g}, but noise_multiplier is {noise_multiplier:g}; "
        f"choose more than {noise_multiplier / 2:g} for the bit",
    )
    if noise_multiplier == 0:
        return 0.0
    return (noise_multiplier**-2 - (2 * bit_noise) ** -2) ** -0.5
