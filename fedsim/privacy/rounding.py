"""How much longer than the clip norm may rounding let a clipped gradient be?

Where passes run in bfloat16, an example's gradient is *defined* by what went into each layer, a_t
for word t, and by what came back, g_t: it is G = sum_t g_t a_t', layer by layer, and whatever the
passes rounded is in a_t and g_t already. What may still go wrong is float32's: the norm of G is
measured too short, or the sum adds more than factor x G. With u = 2**-24, half the distance of 1 to
the next float32, and P = sum |a_t|^2 x sum |g_t|^2 >= |G|^2, and in any order of additions,

- a squared norm is wrong by at most R u P, where R counts roundings: one a feature in an inner
  product, one a word in a sum over words. Words may cancel out, so that |G|^2 is smaller than that;
- the sum's rounding is at most (T + 3) u factor sqrt(P) long, for T words.

So squared norms are measured too *long*, by 2 R u P (`margin`): one half pays for the first, and
of the second is left at most a share of sqrt(1 + ((T + 3) u)^2 / (R u)) - 1 < 128 u beyond the clip
norm, since R holds T^2 / 256; as much again where a norm is taken of a product that was rounded
itself. With the roundings of factors, roots and sums over layers that is less than 2**-15.

Not in it: numbers too small for float32, which hide less than 1e-18 times the length of a layer's
inputs, and that the same example may be rounded otherwise in its passes when others are in its
batch, or its batch is padded further; the assumptions of a run say so.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16"]
"""Number format of a device's forward and backward passes."""

TAU: dict[Precision, float] = {"float32": 0.0, "bfloat16": 2.0**-15}
"""A clipped gradient, as it is computed, is at most (1 + tau) C long."""

SPACING = 2.0**-23
"""Distance of 1 to the next float32: 2 u."""


def margin(features: int, tokens: "Tensor") -> "Tensor":
    """Share of P by which a squared norm is measured too long; see above.

    Args:
      features: inputs and outputs of the layer, over which inner products go.
      tokens: rows of each example that are added up, those with a gradient alone: how many more its
        batch is padded to is up to other examples, and a norm that followed them would let one
        record change what all the others add.

    Returns:
      As many.

    Example:
      >>> import torch
      >>> f"{margin(features=192 + 512, tokens=torch.tensor(16)).item():.1e}"
      '8.7e-05'
    """
    return SPACING * (features + tokens + tokens**2 / 256 + 8)
