"""How a device trains so that no single example of it can be told from what it sends.

DP-SGD (Abadi et al., CCS 2016, https://arxiv.org/abs/1607.00133): the gradients of a Poisson batch,
each clipped to one norm, are summed, Gaussian noise is added once a logical step, also when nobody
was drawn, and the sum is divided by the expected size, which is no secret.
"""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.models.joint import Batch, Parameters
from fedsim.privacy.noise import secure
from fedsim.training.kernel import clipped_gradient
from fedsim.training.procedures import Losses, State


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Stochastic gradient descent on clipped, noised sums, with an optional proximal term.

    A step is one logical batch (`fedsim.training.poisson`), worked off in physical ones. It is
    a Gaussian mechanism of sensitivity `clip_norm` (one example zeroed out) and standard deviation
    `noise_multiplier` x `clip_norm`, provided that no weight of the batch exceeds 1.

    Attributes:
      losses: per-example losses of the model.
      learning_rate: step size, > 0.
      clip_norm: largest norm of one example's gradient, > 0; infinite only without noise.
      noise_multiplier: standard deviation of the noise in clip norms, >= 0.
      physical_size: examples worked on at once, >= 1; changes memory and time alone.
      proximal_mu: weight of (mu / 2) |w - w_received|^2, >= 0; added after clipping, it depends on
        no example.
      secure_noise: take the noise from the operating system's generator.
    """

    losses: Losses
    learning_rate: float
    clip_norm: float
    noise_multiplier: float
    physical_size: int
    proximal_mu: float = 0.0
    secure_noise: bool = False

    leaves_unused_rows: ClassVar[bool] = False
    """Noise goes to every row: which rows stay still would tell which words were said."""

    def __post_init__(self) -> None:
        clip, noise = self.clip_norm, self.noise_multiplier
        require(clip > 0, f"clip_norm is {clip}; choose a number above 0, such as 1")
        require(noise >= 0, f"noise_multiplier is {noise}; choose 0 (no privacy) or more")
        require(
            isfinite(noise) and (isfinite(clip) or noise == 0),
            f"noise_multiplier is {noise} with clip_norm {clip}, which is infinite noise; "
            "choose a finite clip_norm and a finite noise_multiplier",
        )
        require(self.physical_size >= 1, f"physical_size is {self.physical_size}; choose 1 or more")

    def start(self, parameters: Parameters, stream: np.random.Generator | None = None) -> State:
        """A copy of the parameters, the noise generator's state, and the anchor where there is one.

        Raises:
          ConfigError: there is noise to draw, and no stream to draw it from.
        """
        zero = torch.zeros(())
        state: State = {
            "parameters": {name: p.detach().clone() for name, p in parameters.items()},
            "loss": zero,
            "seen": zero,
        }
        if self.proximal_mu:
            state["anchor"] = {name: p.detach() for name, p in parameters.items()}
        if self.noise_multiplier and not self.secure_noise:
            require(
                stream is not None,
                "DPSGD.start was given no stream to draw its noise from; "
                "pass fedsim.rng.stream(seed, purpose, round, device)",
            )
            assert stream is not None
            generator = torch.Generator(next(iter(parameters.values())).device)
            generator.manual_seed(int(stream.integers(2**63)))
            state["noise"] = generator.get_state()
        return state

    def step(self, state: State, batch: Batch) -> State:
        """One logical step: all physical batches, then noise once, then the update."""
        parameters = state["parameters"]
        # The sum starts from the noise: a table of thousands of rows is written once, and the few
        # rows of the batch's words are added to it.
        total = self._noise(state)
        for part in _physical(batch, self.physical_size):
            clipped = clipped_gradient(self.losses, parameters, part, self.clip_norm, into=total)
            counted = part["weight"] * (clipped.factors > 0)
            met = torch.where(counted > 0, clipped.losses * counted, 0.0)
            state["loss"] = state["loss"] + met.sum(-1)
            state["seen"] = state["seen"] + counted.sum(-1)
        rate = -self.learning_rate / batch["size"]
        for name, p in parameters.items():
            change = total[name].mul_(rate.view(*rate.shape, *[1] * (p.dim() - rate.dim())))
            if self.proximal_mu:
                away = p - state["anchor"][name]
                change.add_(away, alpha=-self.learning_rate * self.proximal_mu)
            p.add_(change)
        return state

    def finish(self, state: State) -> Parameters:
        """The trained parameters."""
        return dict(state["parameters"])

    def _noise(self, state: State) -> Parameters:
        """Fresh noise for every parameter; zeros without noise."""
        wide = {n: p.new_empty(p.shape, dtype=_sum_type(p)) for n, p in state["parameters"].items()}
        if not self.noise_multiplier:
            return {name: p.zero_() for name, p in wide.items()}
        deviation = self.noise_multiplier * self.clip_norm
        if self.secure_noise:
            for p in wide.values():
                p.copy_(torch.from_numpy(deviation * secure(p.numel())).view(p.shape))
            return wide
        generator = torch.Generator(next(iter(wide.values())).device)
        generator.set_state(state["noise"])
        for p in wide.values():
            p.normal_(0.0, deviation, generator=generator)
        state["noise"] = generator.get_state()
        return wide


def _physical(batch: Batch, size: int) -> list[Batch]:
    """The batch in parts of at most `size` examples; none of a batch without examples."""
    devices, examples = batch["weight"].dim() - 1, batch["weight"].shape[-1]
    return [
        {
            name: value.narrow(devices, start, min(size, examples - start))
            for name, value in batch.items()
            if value.dim() > devices
        }
        for start in range(0, examples, size)
    ]


def _sum_type(parameter: Tensor) -> torch.dtype:
    """Half-precision parameters are summed and noised in float32."""
    return torch.promote_types(parameter.dtype, torch.float32)
