"""How a device trains so that no single example of it can be told from what it sends.

DP-SGD (Abadi et al., CCS 2016, https://arxiv.org/abs/1607.00133): the gradients of a Poisson batch,
each clipped to one norm, are summed, Gaussian noise is added once a logical step, also when nobody
was drawn, and the sum is divided by the expected size, which is no secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.models.joint import Batch, Parameters
from fedsim.privacy.clipping import Clipping, Flat, Terms
from fedsim.privacy.noise_decay import NoiseDecay
from fedsim.privacy.release import AdaptiveClipping
from fedsim.privacy.rounding import Precision
from fedsim.training.backends import ClippedGradient
from fedsim.training.clip_norm import SplitNoise, adapted, clip_bits, split_noise
from fedsim.training.gaussian import opened, resumed
from fedsim.training.kernel import clipped_gradient
from fedsim.training.late_noise import settle
from fedsim.training.one_by_one import one_by_one
from fedsim.training.precision import cast
from fedsim.training.procedures import Losses, Randomness, State
from fedsim.training.sums import fill, over, side_by_side, sum_type


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Stochastic gradient descent on clipped, noised sums, with an optional proximal term.

    A step is one logical batch (`fedsim.training.poisson`), worked off in physical ones. It is
    a Gaussian mechanism of sensitivity `clip_norm` x `clipping.sensitivity` (one example zeroed
    out; in bfloat16 a share of `fedsim.privacy.rounding.TAU` more) and standard deviation
    `noise_multiplier` x `clip_norm`, provided that no weight of the batch exceeds 1; an adaptive
    clip norm keeps what the pair of sum and clip bits costs at that.

    Attributes:
      losses: per-example losses of the model.
      learning_rate: step size, > 0.
      clip_norm: C, largest norm of one example's gradient, > 0; infinite only without noise. Where
        it adapts, the first one of every participation.
      noise_multiplier: standard deviation of the noise in clip norms, >= 0.
      physical_size: examples worked on at once, >= 1; changes memory and time alone. What is left
        over goes along with the last. No micro-batch is split, and those of stacked devices are
        worked on all at once.
      proximal_mu: weight of (mu / 2) |w - w_received|^2, >= 0; added after clipping, it depends on
        no example.
      clipping: what is clipped as one, and how.
      adaptive: how the clip norm adapts, or None. A term is unclipped where its factor is 1.
      decay: how the noise falls from step to step.
      secure_noise: take the noise, that of clip bits too, from the operating system's generator.
      gradient: who computes the clipped sum (`fedsim.training.backends`); those of Opacus know flat
        clipping alone.
      precision: of forward and backward passes; norms, sums, noise and updates are in float32.
    """

    losses: Losses
    learning_rate: float
    clip_norm: float
    noise_multiplier: float
    physical_size: int
    proximal_mu: float = 0.0
    clipping: Clipping = field(default_factory=Flat)
    adaptive: AdaptiveClipping | None = None
    decay: NoiseDecay = field(default_factory=NoiseDecay)
    secure_noise: bool = False
    gradient: ClippedGradient = clipped_gradient
    precision: Precision = "float32"

    leaves_unused_rows: ClassVar[bool] = False
    """Noise goes to every row: which rows stay still would tell which words were said. That of rows
    which no batch reads may come late, in one draw: `fedsim.training.late_noise`."""

    def __post_init__(self) -> None:
        clip, noise = self.clip_norm, self.noise_multiplier
        require(clip > 0, f"clip_norm is {clip}; choose a number above 0, such as 1")
        require(noise >= 0, f"noise_multiplier is {noise}; choose 0 (no privacy) or more")
        plain = self.clipping == Flat() and self.adaptive is None
        require(
            isfinite(noise) and (isfinite(clip) or (noise == 0 and plain)),
            f"noise_multiplier is {noise} with clip_norm {clip}, which is infinite noise; "
            "choose a finite clip_norm and a finite noise_multiplier",
        )
        require(self.physical_size >= 1, f"physical_size is {self.physical_size}; choose 1 or more")
        require(
            self.gradient is clipped_gradient or not self.clipping.whole,
            "clipping is in micro-batches, which the clipping kernel alone computes; choose the "
            "backend book-keeping, and a model built from the layer functions of fedsim.models",
        )
        exact = self.gradient in (clipped_gradient, one_by_one) and not self.clipping.whole
        require(
            self.precision == "float32" or exact,
            f"precision is {self.precision}, whose rounding is accounted for where examples are "
            "clipped one by one by clipped_gradient or one_by_one; choose float32, or one of these",
        )
        if self.adaptive:
            split_noise(self.adaptive, noise, self.clipping.bound, torch.ones(()))

    def start(self, parameters: Parameters, stream: Randomness = None) -> State:
        """A copy of the parameters, what noise and clipping remember, and the anchor if any.

        Noise of a stack is one draw a step, from the stream of its first device; which records make
        a micro-batch follows from each device's own.

        Raises:
          ConfigError: there is noise or a grouping to draw, and no stream to draw it from.
        """
        zero = torch.zeros(())
        state: State = {
            "parameters": {name: p.detach().clone() for name, p in parameters.items()},
            "loss": zero,
            "seen": zero,
            "step": zero,
        }
        if self.proximal_mu:
            state["anchor"] = {name: p.detach() for name, p in parameters.items()}
        where = next(iter(parameters.values())).device
        if self.adaptive:
            state["clip_norm"] = torch.tensor(self.clip_norm, device=where)
        if self._seeded or self.clipping.whole:
            require(
                stream is not None,
                "DPSGD.start was given no stream to draw its noise from; "
                "pass fedsim.rng.stream(seed, purpose, round, device)",
            )
            assert stream is not None
            streams = list(stream) if isinstance(stream, Sequence) else [stream]
            if self.clipping.whole:
                keys = [[int(each.integers(2**63))] for each in streams]
                one = keys if isinstance(stream, Sequence) else keys[0][0]
                state["key"] = torch.tensor(one, device=where)
            if self._seeded:
                state["noise"] = opened(streams[0], where)
        return state

    def step(self, state: State, batch: Batch) -> State:
        """One logical step: all physical batches, then noise once, then the update.

        Where noise comes late, `reads` of the batch, (n,), says which rows of a table it reads, and
        `drawing` of the state, () int64, how many devices of the stack, its first ones, go on after
        this step: of the others nobody reads its noise but who reads their reply, and they owe it.
        """
        parameters = state["parameters"]
        late = state.get("late", {})
        for name in late:
            settle(state, name, batch["reads"])
        passed = cast(parameters, self.precision)
        expected = self.clipping.expected(batch["size"])
        noise = self._split(state, expected)
        clip_norm = state.get("clip_norm", self.clip_norm)
        # The sum starts from the noise: a table of thousands of rows is written once, and the few
        # rows of the batch's words are added to it.
        total, bits = self._noise(state, noise, expected)
        for terms in self._terms(batch, state.get("key")):
            clipped = self.gradient(
                terms.losses,
                passed,
                terms.batch,
                clip_norm.unsqueeze(-1) if self.adaptive else clip_norm,
                into=total,
                factors=self.clipping.factors,
            )
            counted = terms.counts * (clipped.factors > 0)
            met = torch.where(counted > 0, clipped.losses * counted, 0.0)
            state["loss"] = state["loss"] + met.sum(-1)
            state["seen"] = state["seen"] + counted.sum(-1)
            if self.adaptive:
                bits = bits + clip_bits(clipped.factors, terms.batch["weight"])
        rate = -self.learning_rate / expected
        kept = 1 - self.learning_rate * self.proximal_mu
        if late or "drawing" in state:
            added = (rate * noise.sum * clip_norm).double() ** 2
            for variance in late.values():
                variance.mul_(kept**2).add_(over(added, variance))
            if "drawing" in state:
                last = slice(int(state["drawing"]), None)
                state["owed"][last] = added[last]
        for name, p in parameters.items():
            away = p - state["anchor"][name] if self.proximal_mu else None
            p.addcmul_(total[name], over(rate, p).to(total[name].dtype))
            if away is not None:
                p.add_(away, alpha=-self.learning_rate * self.proximal_mu)
        if self.adaptive:
            state["clip_norm"] = adapted(clip_norm, bits, expected, self.adaptive)
        if self.clipping.whole:
            # Past all records' places, so that no two steps hash the same number.
            state["key"] = state["key"] + (1 << 32)
        state["step"] = state["step"] + 1
        return state

    def finish(self, state: State) -> Parameters:
        """The trained parameters."""
        return dict(state["parameters"])

    @property
    def _seeded(self) -> bool:
        """Whether there is noise, and it comes from the stream."""
        return self.noise_multiplier > 0 and not self.secure_noise

    def _split(self, state: State, expected: Tensor) -> SplitNoise:
        """This step's noise on the sum and on the clip bits."""
        sigma = self.noise_multiplier * self.decay.at(int(state["step"]))
        if self.adaptive is None:
            return SplitNoise(sigma, 0.0)
        return split_noise(self.adaptive, sigma, self.clipping.bound, expected)

    def _noise(
        self, state: State, noise: SplitNoise, expected: Tensor
    ) -> tuple[Parameters, Tensor]:
        """Fresh noise for every parameter and for the bits; zeros without noise, or where late."""
        late = state.get("late", {})
        now = {name: p for name, p in state["parameters"].items() if name not in late}
        wide, memory = side_by_side(now)
        devices = expected.numel()
        going_on = int(state.get("drawing", devices)) if self.noise_multiplier else 0
        if going_on < devices:
            for values in memory:
                values.zero_()
        wide |= {
            name: torch.zeros(p.shape, dtype=sum_type(p), device=p.device)
            for name, p in state["parameters"].items()
            if name in late
        }
        bits = torch.zeros_like(expected)
        if not self.noise_multiplier:
            return wide, bits
        source = resumed(state["noise"], expected.device) if self._seeded else None
        deviation = noise.sum * state.get("clip_norm", self.clip_norm)
        places = [wide[name] for name in now]
        if going_on < devices:
            places = [place[:going_on] for place in places] if going_on else []
            if isinstance(deviation, Tensor):
                deviation = deviation.expand(devices)[:going_on]
        elif not isinstance(deviation, Tensor):
            # One draw for all parameters at once.
            places = memory
        for place in places:
            fill(place, deviation, source)
        if self.adaptive:
            fill(bits, noise.bits, source)
        if source:
            state["noise"] = source.state
        return wide, bits

    def _terms(self, batch: Batch, key: Tensor | None) -> list[Terms]:
        """What is clipped as one, in parts of about the physical size."""
        most = self.physical_size
        whole = batch["weight"].shape[-1] > 0 and self.clipping.whole
        parts = [batch] if whole else _physical(batch, most)
        return [t for part in parts for t in self.clipping.terms(self.losses, part, key, most)]


def _physical(batch: Batch, size: int) -> list[Batch]:
    """The batch in parts of `size` examples, the last one of less than twice as many.

    A stack is as wide as the largest of its devices' draws: few examples more than `size`, and on
    their own they would send all devices through another pass. None of a batch without examples.
    """
    devices, examples = batch["weight"].dim() - 1, batch["weight"].shape[-1]
    parts = max(1, examples // size) if examples else 0
    cuts = [*range(0, parts * size, size), examples]
    return [
        {
            name: value.narrow(devices, start, stop - start)
            for name, value in batch.items()
            if value.dim() > devices
        }
        for start, stop in pairwise(cuts)
    ]
