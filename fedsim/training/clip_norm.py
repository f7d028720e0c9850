"""How does a clip norm follow the lengths of gradients without giving any of them away?

Andrew et al., NeurIPS 2021, https://arxiv.org/abs/1905.03871: C <- C exp(-rate (b - target)), where
b is the noised fraction of gradients that were *not* clipped. A term's bit is shifted by 1/2, so
that it is at most 1/2 long; sum and bits together cost what the sum alone costs at noise multiplier
sigma when the sum gets the larger noise of `fedsim.privacy.noise_beside_clip_bit`. Terms that are
longer than C (thresholds per layer) leave more room beside a bit that is still 1/2; two terms that
one record touches (micro-batches) move sum and bits twice as far alike, and change nothing.

The norm starts anew with every participation, so this is for devices that take many steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.privacy.events import noise_beside_clip_bit
from fedsim.privacy.release import AdaptiveClipping


class SplitNoise(NamedTuple):
    """What a step's noise is divided into.

    Attributes:
      sum: noise multiplier of the sum of clipped terms.
      bits: standard deviation of the noise on the sum of clip bits, 0 without noise.
    """

    sum: float | Tensor
    bits: float | Tensor


def split_noise(
    adaptive: AdaptiveClipping, noise_multiplier: float, bound: float, expected: Tensor
) -> SplitNoise:
    """Noise of the sum and of the bits, which together cost `noise_multiplier`.

    Args:
      adaptive: its `bit_noise`, or a twentieth of the expected terms, at least the noise
        multiplier.
      noise_multiplier: sigma, >= 0.
      bound: largest norm of a term, in units of C.
      expected: (...) terms a step.

    Returns:
      Numbers, or tensors of the shape of `expected`.

    Raises:
      ConfigError: the bits alone would cost more.

    Example:
      >>> noise = split_noise(AdaptiveClipping(bit_noise=1.0), 1.0, 1.0, torch.tensor(16.0))
      >>> round(noise.sum, 4), noise.bits
      (1.1547, 1.0)
    """
    if noise_multiplier == 0:
        return SplitNoise(0.0, 0.0)
    if adaptive.bit_noise is not None:
        alone = noise_beside_clip_bit(noise_multiplier, bound * adaptive.bit_noise)
        return SplitNoise(alone, adaptive.bit_noise)
    # A bound below 1 would let the bit alone cost more than both may.
    bits = (expected / 20).clamp(min=noise_multiplier / min(1.0, bound))
    sums = [noise_beside_clip_bit(noise_multiplier, bound * b) for b in bits.flatten().tolist()]
    return SplitNoise(bits.new_tensor(sums).view_as(bits), bits)


def clip_bits(factors: Tensor, weight: Tensor) -> Tensor:
    """Sum over terms of weight x (unclipped - 1/2): (..., terms) -> (...).

    Args:
      factors: weight x factor of each; a term at 0 does not count.
      weight: at most 1.

    Example:
      >>> clip_bits(torch.tensor([1.0, 0.3, 0.0, 0.5]), torch.tensor([1.0, 1.0, 0.0, 0.5])).item()
      0.25
    """
    unclipped = (factors >= weight).to(weight.dtype) - 0.5
    return (weight * (factors > 0) * unclipped).sum(-1)


def adapted(
    clip_norm: Tensor, noised_bits: Tensor, expected: Tensor, adaptive: AdaptiveClipping
) -> Tensor:
    """The next clip norm.

    Args:
      clip_norm: (...) the present one.
      noised_bits: (...) sum of clip bits with its noise.
      expected: (...) terms a step.
      adaptive: target fraction, and rate of change.

    Example:
      >>> all_clipped, two = torch.tensor(-4.0), AdaptiveClipping(target=0.5, rate=0.2)
      >>> round(adapted(torch.tensor(1.0), all_clipped, torch.tensor(8.0), two).item(), 4)  # e^0.1
      1.1052
    """
    fraction = 0.5 + noised_bits / expected
    return clip_norm * torch.exp(-adaptive.rate * (fraction - adaptive.target))
