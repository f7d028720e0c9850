"""Replies whose last noise is drawn when somebody reads them, or once for the mean of many.

The noise of a device's last step, and that of table rows which no batch reads, reaches nothing but
the reply. A server that takes the weighted mean of a cohort reads one sum of all of them: one draw
of the summed variance, whose distribution is the same, instead of one for every device. Who reads a
reply by itself is given noise of its own; and if it was part of a mean before, noise that goes with
the mean: independent normal numbers, given what they sum up to (Matheron's rule; Journel and
Huijbregts, "Mining Geostatistics", 1978). So whatever is read, in whatever order, has the joint
distribution that it has where each device draws its noise itself.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import Parameters
from fedsim.training.gaussian import Source, opened, resumed
from fedsim.training.own_rows import Trained, whole

HERE = torch.device("cpu")

Draw = Callable[[str], np.random.Generator]
"""Purpose -> a stream of one device and round."""


class Unread:
    """A reply without the noise that it is to have.

    Args:
      trained: what it will be, but for the noise; on the processor.
      owed: variance of the noise of each parameter: (), or (rows, 1) of a table.
      draw: streams of the device and round that nobody else draws from.

    Example:
      >>> def draw(purpose):
      ...     return np.random.Generator(np.random.Philox(key=7))
      >>> reply = Unread({"w": torch.zeros(10_000)}, {"w": torch.tensor(4.0)}, draw)
      >>> round(float(reply.read()["w"].std()), 1), reply.read()["w"] is reply.read()["w"]
      (2.0, True)
    """

    def __init__(self, trained: Trained, owed: Mapping[str, Tensor], draw: Draw) -> None:
        self.trained = trained
        self.noise = _Noise(owed, draw)
        self._read: Parameters = {}
        self._mean: _Mean | None = None

    @property
    def waiting(self) -> bool:
        """Whether it was neither read nor part of a mean."""
        return not self._read and self._mean is None

    def read(self) -> Parameters:
        """The parameters with their noise, whole; always the same tensors.

        The first that is read of a mean costs as much as reading all of it.
        """
        if not self._read:
            noise = self.noise.drawn(self.trained)
            if self._mean is not None:
                for name, drawn in noise.items():
                    self._mean.bring_along(drawn, name, self.noise)
            # All of it at once: another thread may read it meanwhile.
            self._read = {name: noise[name].add_(p) for name, p in whole(self.trained).items()}
        return self._read


class Noised(NamedTuple):
    """One parameter of a reply that gets its noise when any of its parameters is read."""

    reply: Unread
    name: str

    @property
    def received(self) -> Tensor:
        """A tensor of its shape and kind of number."""
        trained = self.reply.trained[self.name]
        return trained if isinstance(trained, Tensor) else trained.received

    def whole(self) -> Tensor:
        """What is read of it, in memory of its own."""
        return self.reply.read()[self.name].clone()


def mean_noise(members: Iterable[tuple[Unread, float]]) -> Parameters:
    """The noise of sum_k share_k x reply_k, in one draw.

    Args:
      members: replies and the weight of each, > 0; at least one, all `waiting`. From now on they
        are part of this mean.
    """
    shares: dict[Unread, float] = {}
    for reply, share in members:
        shares[reply] = shares.get(reply, 0.0) + share
    like = next(iter(shares)).trained
    mean = _Mean({reply.noise: share for reply, share in shares.items()}, like)
    for reply in shares:
        reply._mean = mean
    return mean.drawn


class _Noise:
    """Independent normal numbers that one reply is owed."""

    def __init__(self, owed: Mapping[str, Tensor], draw: Draw) -> None:
        self.owed, self._draw = owed, draw

    def source(self, purpose: str) -> Source:
        return resumed(opened(self._draw(purpose), HERE), HERE)

    def drawn(self, like: Trained) -> Parameters:
        """Of every parameter; the same whenever it is asked for."""
        return _drawn(like, self.source("example-noise-read"), self.owed)


class _Mean:
    """What was drawn for the mean of replies.

    It knows their noises and not the replies, which are freed as soon as nobody holds them.

    Attributes:
      drawn: the noise of the mean.
    """

    def __init__(self, shares: Mapping[_Noise, float], like: Trained) -> None:
        self._shares = shares
        self._variances: dict[str, Tensor] = {}
        for name in like:
            total = torch.zeros((), dtype=torch.float64)
            for noise, share in shares.items():
                total = total + share**2 * noise.owed[name].double()
            self._variances[name] = total
        # A reply comes first in one mean at most: after that it is no longer waiting.
        source = next(iter(shares)).source("example-noise-mean")
        self.drawn = _drawn(like, source, self._variances)
        self._away: Parameters = {}

    def bring_along(self, noise: Tensor, name: str, of: _Noise) -> None:
        """Move a reply's noise so that it goes with the mean's, in place."""
        if not self._away:
            self._away = {name: drawn.clone() for name, drawn in self.drawn.items()}
            for each, share in self._shares.items():
                for other, own in each.drawn(self.drawn).items():
                    self._away[other].sub_(own, alpha=share)
        # Where nothing is owed, nothing goes along.
        goes_with = (self._shares[of] * of.owed[name].double() / self._variances[name]).nan_to_num()
        noise.addcmul_(self._away[name], goes_with.to(noise.dtype))


def _drawn(like: Trained, source: Source, variances: Mapping[str, Tensor]) -> Parameters:
    """Normal numbers of the shapes of parameters."""
    drawn = {}
    for name, p in like.items():
        kept = p if isinstance(p, Tensor) else p.received
        drawn[name] = torch.empty(kept.shape, dtype=kept.dtype)
        source.fill(drawn[name], 1.0)
        drawn[name].mul_(variances[name].sqrt().to(kept.dtype))
    return drawn
