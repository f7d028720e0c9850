"""What does the server release of a round under device-level DP?

A round releases `(sum_i w_i clip(update_i, C) + N(0, (sigma S)^2 I)) / denominator`, one Gaussian
mechanism for the whole round: w_i is a device's weight, C the clip norm, S = C w_max the most that
one device can move the sum, and the denominator a constant that does not depend on who came. A
device that was drawn and sent nothing that counts adds the zero vector, and the noise is added also
when nobody came.

Two meanings of "neighbouring", which fix S and the denominator:

- `zero-out`: neighbours differ in the content of one device. Who there is, how much each holds,
  hence every rate and weight, are the same in both worlds and treated as public: w_max is the
  largest weight of any device, the denominator the expected sum of weights `sum_i q_i w_i`.
- `add-remove`: neighbours differ in one whole device. Weight bound and denominator are constants
  of the config, which say nothing about anybody.

Adaptive clipping: Andrew et al. 2021, "Differentially private learning with adaptive clipping",
https://arxiv.org/abs/1905.03871: C follows a quantile of the norms by
`C <- C exp(-rate (b - target))`, where b is the noised fraction of updates that were *not* clipped
(and b - target is cut to [-1, 1], which noise alone could leave).
The bit of a device is (b_i - 1/2) w_i / w_max, at most 1/2 in absolute value, so that update and
bit together cost what the update alone costs at noise multiplier sigma when the update is noised
with `(sigma^-2 - (2 sigma_b)^-2)^(-1/2)`. A null device has no bit.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedsim.errors import ConfigError, require
from fedsim.privacy.device_ledger import Adjacency
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.events import Gaussian, noise_beside_clip_bit
from fedsim.privacy.filtered_ledger import order_index
from fedsim.privacy.noise import Normal


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """A clip norm that follows a quantile of the update norms.

    Attributes:
      target: fraction of updates that shall stay unclipped, in (0, 1).
      rate: step size of log C, > 0.
      bit_noise: standard deviation of the noise on the sum of clip bits, more than half the noise
        multiplier; None is a twentieth of the expected cohort, at least the noise multiplier.
    """

    target: float = 0.5
    rate: float = 0.2
    bit_noise: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.target < 1, f"target is {self.target}; choose a fraction between 0 and 1")
        require(
            0 < self.rate < math.inf, f"rate of adaptive clipping is {self.rate}; choose above 0"
        )


@dataclass(frozen=True, kw_only=True)
class DeviceLevel:
    """Device-level DP by clipping, summing and Gaussian noise.

    Attributes:
      clip_norm: largest norm of an update, over all arrays together, > 0; where it adapts, the
        first one.
      noise_multiplier: sigma, noise in units of what one device can change, >= 0; 0 is no privacy.
        None with `epsilon`.
      epsilon: instead, what the worst device may have spent at the end of the run.
      delta: of every epsilon; None is 1e-5, or a tenth of one over the number of devices where that
        is smaller.
      adjacency: "zero-out" or "add-remove", see above.
      weight_cap: under add-remove, the largest weight, a public constant.
      denominator: under add-remove, what the sum is divided by, a public constant.
      example_cap: examples beyond which a device weighs no more, for weights by examples; a public
        constant, needed under add-remove.
      smallest_rate: rate below which an inverse-rate weight grows no more; likewise.
      device_budget: epsilon that no device may exceed; it sits out every round that would take it
        above. Decided by scheduled rates alone.
      run_budget: epsilon that the worst device may not exceed; the run stops before it would.
      filter_order: Renyi order at which `device_budget` is kept where rates or noise follow
        releases (`fedsim.privacy.filtered_ledger`); None is the one at which it pays for most of
        what is announced before the first round (`announced_order` there).
      adaptive: how the clip norm adapts, or None.
      secure_noise: take the noise from the operating system; no run is then like another.

    Example:
      >>> private = DeviceLevel(clip_norm=0.5, noise_multiplier=1.0)
      >>> release = private.release(rates=np.array([0.5, 0.5]), weights=np.array([1.0, 0.5]))
      >>> release.sensitivity, release.denominator
      (0.5, 0.75)
    """

    clip_norm: float = 1.0
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    adjacency: Adjacency = "zero-out"
    weight_cap: float | None = None
    denominator: float | None = None
    example_cap: int | None = None
    smallest_rate: float | None = None
    device_budget: float | None = None
    run_budget: float | None = None
    filter_order: float | None = None
    adaptive: AdaptiveClipping | None = None
    secure_noise: bool = False

    def __post_init__(self) -> None:
        require(
            0 < self.clip_norm < math.inf,
            f"clip_norm is {self.clip_norm}; choose a finite norm above 0",
        )
        sigma, target, delta = self.noise_multiplier, self.epsilon, self.delta
        require(
            (sigma is None) != (target is None),
            f"noise_multiplier is {sigma} and epsilon is {target}; give exactly one of them",
        )
        require(
            sigma is None or 0 <= sigma < math.inf,
            f"noise_multiplier is {sigma}; choose 0 (no privacy) or more, finite",
        )
        require(
            target is None or 0 < target < math.inf,
            f"epsilon is {target}; choose a finite target above 0",
        )
        require(
            delta is None or 0 < delta < 1,
            f"delta is {delta}; choose a probability between 0 and 1",
        )
        known = ("zero-out", "add-remove")
        require(
            self.adjacency in known,
            f"adjacency is {self.adjacency!r}; choose one of {', '.join(known)}",
        )
        public = {"weight_cap": self.weight_cap, "denominator": self.denominator}
        for name, value in public.items():
            if self.adjacency == "zero-out":
                require(
                    value is None,
                    f"{name} is {value}, which only adjacency 'add-remove' uses; leave it out",
                )
            elif value is None or not 0 < value < math.inf:
                raise ConfigError(
                    f"{name} is {value}; adjacency 'add-remove' needs a finite public constant "
                    "above 0, chosen without looking at the devices"
                )
        cap, least = self.example_cap, self.smallest_rate
        require(cap is None or cap >= 1, f"example_cap is {cap}; choose 1 or more")
        require(least is None or 0 < least <= 1, f"smallest_rate is {least}; choose one in (0, 1]")
        for name in ("device_budget", "run_budget"):
            budget = getattr(self, name)
            require(budget is None or budget > 0, f"{name} is {budget}; choose an epsilon above 0")
        if self.filter_order is not None:
            order_index(self.filter_order)
        bit_noise = None if self.adaptive is None else self.adaptive.bit_noise
        require(
            bit_noise is None or bit_noise > (sigma or 0.0) / 2,
            f"bit_noise is {bit_noise}; choose more than half the noise multiplier "
            f"({(sigma or 0.0) / 2:g}), or the bits alone would spend it all",
        )

    def release(
        self,
        *,
        rates: np.ndarray,
        weights: np.ndarray,
        clip_norm: float | None = None,
        scheduled: np.ndarray | None = None,
    ) -> "Release":
        """This round's mechanism, constants resolved.

        Args:
          rates: (devices,) participation rates.
          weights: (devices,) weight of every device that may come.
          clip_norm: the present one where it adapts.
          scheduled: (devices,) rates before any device retired, if any has. The noise is made for
            the largest weight among them, so that one device's retirement makes no other device's
            rounds dearer than they were planned.

        Raises:
          ConfigError: a weight above the public bound, or noise that is not known yet.
        """
        sigma = self.noise_multiplier
        if sigma is None:
            raise ConfigError(
                f"epsilon is {self.epsilon:g}, and the noise it takes is not known yet; run the "
                "strategy through fedsim.Simulation, inside Selective"
            )
        clip_norm = self.clip_norm if clip_norm is None else clip_norm
        possible = weights[(rates if scheduled is None else scheduled) > 0]
        largest = float(possible.max(initial=0.0))
        if self.adjacency == "zero-out":
            most, expected = largest or 1.0, float(rates @ weights)
        else:
            most, expected = float(self.weight_cap or 0.0), float(self.denominator or 0.0)
            require(
                largest <= most,
                f"a device weighs {largest:g}, more than the public weight_cap of {most:g}",
            )
        plain = Release(
            clip_norm=clip_norm,
            noise_multiplier=sigma,
            sum_noise_multiplier=sigma,
            largest_weight=most,
            # Nobody can come: the sum is noise alone, and any constant will do.
            denominator=expected or most,
            adjacency=self.adjacency,
        )
        if self.adaptive is None:
            return plain
        bit_noise = self.adaptive.bit_noise
        if bit_noise is None:
            bit_noise = max(plain.denominator / most / 20, sigma)
        split = noise_beside_clip_bit(sigma, bit_noise)
        return replace(plain, sum_noise_multiplier=split, bit_noise=bit_noise)


@dataclass(frozen=True, kw_only=True)
class Release:
    """The Gaussian mechanism of one round.

    Attributes:
      clip_norm: C.
      noise_multiplier: sigma that the round is accounted with.
      sum_noise_multiplier: sigma of the noise on the sum; larger where clip bits are released too.
      largest_weight: w_max.
      denominator: what the noised sum is divided by.
      adjacency: what neighbours differ in.
      bit_noise: noise on the sum of clip bits, None where no bits are released.
    """

    clip_norm: float
    noise_multiplier: float
    sum_noise_multiplier: float
    largest_weight: float
    denominator: float
    adjacency: Adjacency
    bit_noise: float | None = None

    @property
    def sensitivity(self) -> float:
        """S = C w_max: the most that one device moves the sum."""
        return self.clip_norm * self.largest_weight

    @property
    def effective_noise(self) -> float:
        """Noise per coordinate of the released mean update, in units of the clip norm."""
        return self.sum_noise_multiplier * self.largest_weight / self.denominator

    def event(self, rates: np.ndarray, weights: np.ndarray, *, independent: bool) -> DeviceSum:
        """What the round is to each device, for the ledger.

        Args:
          rates: (devices,) participation rates.
          weights: (devices,) of every device.
          independent: whether the cohort was drawn by independent coins.
        """
        return DeviceSum(
            event=Gaussian(noise_multiplier=self.noise_multiplier),
            rates=rates,
            # A device that cannot come may weigh anything.
            weights=np.minimum(weights / self.largest_weight, 1.0),
            independent=independent,
        )

    def mean(
        self, updates: Iterable[tuple[float, Tensor]], size: int, noise: Normal
    ) -> tuple[Tensor, float | None]:
        """The private mean update, and the noised fraction of updates that were not clipped.

        Args:
          updates: (weight, flat update) of the devices whose reply counts; a device that holds
            nothing sends zeros.
          size: entries of an update.
          noise: standard normal numbers.

        Returns:
          (size,) float64, and the fraction, None where no bits are released.
        """
        # Doubles: rounding stays far below the sensitivity that the noise is made for.
        total, buffer = (
            torch.zeros(size, dtype=torch.float64),
            torch.empty(size, dtype=torch.float64),
        )
        bits = 0.0
        for weight, update in updates:
            buffer.copy_(update)
            norm = float(torch.linalg.vector_norm(buffer))
            # Tested before scaling: zero times infinity would be NaN. A null device has no bit.
            if not math.isfinite(norm) or norm == 0:
                continue
            weight = min(weight, self.largest_weight)
            total.add_(buffer, alpha=weight * min(1.0, self.clip_norm / norm))
            bits += weight / self.largest_weight * (0.5 if norm <= self.clip_norm else -0.5)
        if self.sum_noise_multiplier:
            spread = self.sum_noise_multiplier * self.sensitivity
            total.add_(torch.from_numpy(noise(size)), alpha=spread)
        unclipped = None
        if self.bit_noise is not None:
            bits += self.bit_noise * float(noise(1)[0])
            unclipped = 0.5 + bits / (self.denominator / self.largest_weight)
        return total.div_(self.denominator), unclipped
