"""How are the normal numbers of private steps drawn, and what is kept from one draw to the next?

    state = opened(draw, where)          # once for a participation or a stack: a tensor
    source = resumed(state, where)
    source.fill(total, deviation)        # as often as needed
    state = source.state

On an accelerator torch draws them. On a processor torch spends most of the time of a number on its
Mersenne twister, whose bits are moreover linear in one another: whoever is sent enough numbers that
are noise alone could solve for the others. So there they are made from the bits of SFC64
(Doty-Humphrey; NumPy's) by Box and Muller's transform (1958), in blocks that stay in the caches of
a core. It is no cipher either: a claim holds for whoever does not compute its state from noise.

Streams of SFC64 never run into each other. Its state is 192 bits and a counter that goes up by one
a draw, and its step can be undone: two streams that start from different bits at the same count
are in different states ever after, and at different counts are so by the counter. Bits are drawn
from streams of `fedsim.rng`, so that among N participations the chance that any two agree is below
N^2 / 2^193.

A number is a Gaussian only up to rounding. One in float32 ends at 6.76 deviations (torch's own at
5.77), one in float64 at 9.49, and each is a function of 32 or 64 bits for its pair's radius and as
many for the angle. Claims are about the Gaussian that it stands for; `secure_noise` is for whoever
has to fear an observer of exact sums.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedsim.rng import sfc64

BLOCK = 65536
"""Numbers made at a time; part of what a seed draws."""

_WORDS: dict[torch.dtype, tuple[type, type]] = {
    torch.float32: (np.uint32, np.int32),
    torch.float64: (np.uint64, np.int64),
}
"""Words that are as long as a number, without a sign for a radius and with one for an angle."""


class Source(Protocol):
    """Draws normal numbers, and can be put away as a tensor."""

    @property
    def state(self) -> Tensor:
        """Where the next draw goes on."""

    def fill(self, into: Tensor, deviation: float) -> None:
        """Fill a contiguous tensor with independent normal numbers of mean 0."""


def opened(draw: np.random.Generator, where: torch.device) -> Tensor:
    """The state that one participation's noise, or one stack's, starts from.

    Args:
      draw: a stream of its own; secret where the noise is to protect anything.
      where: the device the numbers are drawn on.
    """
    if where.type != "cpu":
        return torch.Generator(where).manual_seed(int(draw.integers(2**63))).get_state()
    words = np.ones(4, np.uint64)
    words[:3] = draw.integers(2**64, size=3, dtype=np.uint64)
    source = _OnProcessor(torch.from_numpy(words.view(np.int64)))
    # As NumPy seeds it: until every bit of a seed reaches every bit of what is drawn.
    source.bits(12)
    return source.state


def resumed(state: Tensor, where: torch.device) -> Source:
    """What draws on from a state.

    Args:
      state: of `opened`, or of a source on a device of the same kind.
      where: the device the numbers are drawn on.

    Example:
      >>> here, draw = torch.device("cpu"), np.random.Generator(np.random.Philox(key=0))
      >>> source, drawn = resumed(opened(draw, here), here), torch.empty(10_000)
      >>> source.fill(drawn, 2.0)
      >>> round(float(drawn.std()), 1)
      2.0
    """
    return _OnProcessor(state) if where.type == "cpu" else _OnAccelerator(state, where)


class _OnAccelerator:
    """Torch's own generator."""

    def __init__(self, state: Tensor, where: torch.device) -> None:
        self._generator = torch.Generator(where)
        self._generator.set_state(state)

    @property
    def state(self) -> Tensor:
        return self._generator.get_state()

    def fill(self, into: Tensor, deviation: float) -> None:
        into.normal_(0.0, deviation, generator=self._generator)


class _OnProcessor:
    """SFC64 and Box-Muller; the state is its four words as int64."""

    def __init__(self, state: Tensor) -> None:
        self._generator = sfc64(state.numpy().view(np.uint64))

    @property
    def state(self) -> Tensor:
        words = self._generator.bit_generator.state["state"]["state"]
        return torch.from_numpy(words.view(np.int64).copy())

    def bits(self, words: int) -> np.ndarray:
        """(words,) uint64; other threads run meanwhile, which `random_raw` does not let them."""
        return self._generator.integers(2**64, size=words, dtype=np.uint64)

    def fill(self, into: Tensor, deviation: float) -> None:
        radius_word, angle_word = _WORDS[into.dtype]
        flat = into.view(-1).numpy()
        number, width = flat.dtype.type, 8 * flat.dtype.itemsize
        # Memory for all blocks, so that none has to be fetched from the system.
        radii, angles = np.empty((2, (min(len(flat), BLOCK) + 1) // 2), number)
        for start in range(0, len(flat), BLOCK):
            block = flat[start : start + BLOCK]
            # An odd one out leaves the other of its pair unused.
            pairs = (len(block) + 1) // 2
            words: np.ndarray = self.bits(pairs * (width // 32)).view(radius_word)
            radius, angle = radii[:pairs], angles[:pairs]
            np.copyto(radius, words[:pairs], casting="unsafe")
            radius *= number(2.0**-width)
            # Half a step above 0, so that the logarithm is finite.
            radius += number(2.0 ** -(width + 1))
            np.log(radius, out=radius)
            radius *= number(-2.0 * deviation**2)
            np.sqrt(radius, out=radius)
            np.copyto(angle, words[pairs:].view(angle_word), casting="unsafe")
            angle *= number(2 * np.pi * 2.0**-width)
            first, second = block[:pairs], block[pairs:]
            np.cos(angle, out=first)
            first *= radius
            np.sin(angle[: len(second)], out=second)
            second *= radius[: len(second)]
