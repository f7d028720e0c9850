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

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import Parameters
from fedsim.training.gaussian import Source, opened, resumed
from fedsim.training.own_rows import Trained

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
        self.trained, self.owed, self._draw = trained, owed, draw
        self._read: Parameters = {}
        self._mean: _Mean | None = None

    @property
    def waiting(self) -> bool:
        """Whether it was neither read nor part of a mean."""
        return not self._read and self._mean is None

    def read(self) -> Parameters:
        """The parameters with their noise, whole; always the same tensors."""
        if not self._read:
            (self._mean or _Mean({self: 1.0}, {})).part()
        return self._read

    def source(self, purpose: str) -> Source:
        """Of the noise of this reply, or of a mean that it is the first of."""
        return resumed(opened(self._draw(purpose), HERE), HERE)


def mean_noise(members: Iterable[tuple[Unread, float]]) -> Parameters:
    """The noise of sum_k share_k x reply_k, in one draw.

    Args:
      members: replies and the weight of each, > 0; at least one, all `waiting`. From now on they
        are part of this mean.
    """
    shares: dict[Unread, float] = {}
    for reply, share in members:
        shares[reply] = shares.get(reply, 0.0) + share
    first = next(iter(shares))
    # A reply comes first in one mean at most: after that it is no longer waiting.
    source = first.source("example-noise-mean")
    drawn = {
        name: _drawn(p if isinstance(p, Tensor) else p.received, source)
        for name, p in first.trained.items()
    }
    mean = _Mean(shares, drawn)
    for name, noise in drawn.items():
        noise.mul_(mean.variance(name).sqrt().to(noise.dtype))
    for reply in shares:
        reply._mean = mean
    return drawn


class _Mean:
    """Replies of which nothing was read but their mean, with what was drawn for it by name.

    Nothing was drawn for a reply that is read by itself.
    """

    def __init__(self, shares: Mapping[Unread, float], drawn: Parameters) -> None:
        self._shares, self._drawn = shares, drawn

    def variance(self, name: str) -> Tensor:
        """Of the noise of the mean."""
        each = self._shares.items()
        return torch.stack([share**2 * reply.owed[name].double() for reply, share in each]).sum(0)

    def part(self) -> None:
        """Read all replies: each gets noise of its own, moved so that it goes with the mean's."""
        sources = {reply: reply.source("example-noise-read") for reply in self._shares}
        read = {reply: _own(reply.trained) for reply in self._shares}
        for name in next(iter(read.values())):
            noise = {}
            for reply, source in sources.items():
                drawn = _drawn(read[reply][name], source)
                noise[reply] = drawn.mul_(reply.owed[name].sqrt().to(drawn.dtype))
            if name in self._drawn:
                away = self._drawn[name].clone()
                for reply, share in self._shares.items():
                    away.sub_(noise[reply], alpha=share)
                variance = self.variance(name)
                for reply, share in self._shares.items():
                    goes_with = share * reply.owed[name].double() / variance
                    noise[reply].addcmul_(away, goes_with.to(away.dtype))
            for reply, own in noise.items():
                read[reply][name].add_(own)
        for reply, parameters in read.items():
            reply._read = parameters


def _drawn(like: Tensor, source: Source) -> Tensor:
    """Normal numbers of variance 1."""
    drawn = torch.empty(like.shape, dtype=like.dtype)
    source.fill(drawn, 1.0)
    return drawn


def _own(trained: Trained) -> Parameters:
    """Whole tensors that may be written to."""
    return {n: p.clone() if isinstance(p, Tensor) else p.whole() for n, p in trained.items()}
