"""Exact per-example gradient clipping at the cost of ordinary training.

`clipped_gradient` sums the clipped gradients of a batch's examples without storing them; the other
modules hold one rule for each kind of layer.
"""

from fedsim.training.kernel import affine, embedding, linear, lstm  # noqa: F401 - register rules
from fedsim.training.kernel.clipping import Clipped, clipped_gradient

__all__ = ["Clipped", "clipped_gradient"]
