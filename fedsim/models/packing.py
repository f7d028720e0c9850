"""Where the words of padded sentences lie while a model works on them.

Time step by time step: step t holds word t of every sentence. Sentences are sorted by length,
longest first. With a leading device axis, a step is only as wide as the widest device needs, so
that devices of one stack share one layout and no step works on sentences that have ended. A single
device keeps its padding: PyTorch's kernels want it, and moving words around it costs more than
computing on it.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Packing:
    """The packed layout of `examples` sentences of at most `tokens` words; `n` places in all.

    Attributes:
      examples: sentences of a (device's) batch.
      tokens: width of the padded batch.
      steps: sentences at each time step, non-increasing, sums to n.
      full: whether every place holds a word and every sentence has one.
      mirror: (..., n) the place that mirrors each in its sentence (itself where there is no word).
      real: (..., n) bool, places that hold a word.
      lengths: (..., examples) words of each sentence.
    """

    examples: int
    tokens: int
    steps: list[int]
    full: bool
    mirror: Tensor
    real: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, lengths: Tensor, tokens: int, where: torch.device | None = None) -> "Packing":
        """The layout of sentences, those of a stack sorted by length.

        Args:
          lengths: (..., examples) int64; with leading axes, non-increasing along the last.
          tokens: width of the padded batch.
          where: the device of the words; None is that of the lengths. Lengths in ordinary memory
            serve words on an accelerator without waiting for it.

        Example:
          >>> p = Packing.of(torch.tensor([[3, 1]]), tokens=3)
          >>> p.steps, p.place.tolist(), p.mirror.tolist()
          ([2, 1, 1], [0, 3, 1, 2], [[3, 1, 2, 0]])
          >>> Packing.of(torch.tensor([3, 1]), tokens=3).place.tolist()
          [0, 3, 1, 4, 2, 5]
        """
        # In NumPy: on arrays this small an operation of torch costs ten times as much.
        each, where = lengths.cpu().numpy(), where or lengths.device
        examples = each.shape[-1]
        if each.ndim == 1:
            if examples and each.min() == tokens:
                return _full(examples, tokens, where)
            steps = [examples] * tokens if examples else []
            # One row a time step: the places of a single device are a rectangle.
            step, example = np.arange(len(steps))[:, None], np.arange(examples)
            opposite = each - 1 - step
            real = opposite >= 0
            mirror = np.where(real, opposite, step) * examples + example
            full = not steps
        else:
            active = np.count_nonzero(np.arange(tokens)[:, None] < each.max(0, initial=0), axis=1)
            steps = active[active > 0].tolist()
            first, step, example = _places(steps)
            opposite = each[..., example] - 1 - step
            real = opposite >= 0
            mirror = np.where(real, first[np.maximum(opposite, 0)] + example, np.arange(len(step)))
            full = bool(real.all() and each.all())
        twins, words, known = (
            sent(t, where)
            for t in (
                torch.from_numpy(mirror.reshape(*each.shape[:-1], -1)),
                torch.from_numpy(real.reshape(*each.shape[:-1], -1)),
                lengths,
            )
        )
        return cls(examples, tokens, steps, full, twins, words, known)

    @cached_property
    def example(self) -> Tensor:
        """(n,) sentence of each place."""
        _, _, example = _places(self.steps)
        return sent(torch.from_numpy(example), self.lengths.device)

    @cached_property
    def place(self) -> Tensor:
        """(n,) index of each place in the flattened (examples x tokens) batch."""
        _, step, example = _places(self.steps)
        return sent(torch.from_numpy(example * self.tokens + step), self.lengths.device)

    @property
    def whole(self) -> bool:
        """Whether padding is kept, so that a view by time step does for moving words."""
        return self.real.dim() == 1

    def timed(self, packed: Tensor) -> Tensor:
        """For a single device: (n, features) -> (tokens, examples, features), a view."""
        return packed.unflatten(0, (self.tokens, self.examples))

    def packed(self, padded: Tensor) -> Tensor:
        """(..., examples, tokens, features) -> (..., n, features)."""
        if self.whole:
            return padded.transpose(0, 1).flatten(0, 1)
        return padded.flatten(-3, -2).index_select(-2, self.place)

    def padded(self, packed: Tensor) -> Tensor:
        """(..., n, features) -> (..., examples, tokens, features), zero where there is no word."""
        if self.whole:
            return self.timed(self.kept(packed, 0)).transpose(0, 1)
        return self._spread(packed, 0.0)

    def reversed(self, packed: Tensor) -> Tensor:
        """Every sentence in the opposite order, shape (..., n, features)."""
        return _Mirrored.apply(packed, self.mirror)

    def sums(self, packed: Tensor) -> Tensor:
        """Sums over the words of each sentence: (..., n, features) -> (..., examples, features)."""
        kept = self.kept(packed, 0)
        if self.whole:
            return self.timed(kept).sum(0)
        size = (*packed.shape[:-2], self.examples, packed.shape[-1])
        return packed.new_zeros(size).index_add(-2, self.example, kept)

    def means(self, packed: Tensor) -> Tensor:
        """Means over the words of each sentence, shape (..., examples, features)."""
        return self.sums(packed) / self.lengths.clamp(min=1).unsqueeze(-1)

    def maxima(self, packed: Tensor) -> Tensor:
        """Maxima over the words of each sentence, (..., examples, features); 0 without words."""
        lowest = float("-inf")
        if self.whole:
            highest = _Highest.apply(self.timed(self.kept(packed, lowest)), 0)
        else:
            highest = _Highest.apply(self._spread(packed, lowest), -2)
        return highest if self.full else highest.masked_fill(self.lengths.unsqueeze(-1) == 0, 0.0)

    def kept(self, packed: Tensor, otherwise: float) -> Tensor:
        """The words, and `otherwise` at places that hold none."""
        return packed if self.full else packed.masked_fill(~self.real.unsqueeze(-1), otherwise)

    def _spread(self, packed: Tensor, otherwise: float) -> Tensor:
        """For a stack: (devices, n, features) -> (devices, examples, tokens, features)."""
        spread = _Spread.apply(packed, self.source, self.place, self.real, otherwise)
        return spread.unflatten(-2, (self.examples, self.tokens))

    @cached_property
    def source(self) -> Tensor:
        """For a stack: (devices x examples x tokens,) row of each cell among (devices x (n + 1)).

        A cell without a word shows its device's last row, which lies behind its places.
        """
        devices, n = self.real.shape
        row = torch.where(self.real, torch.arange(n, device=self.real.device), n)
        cells = row.new_full((devices, self.examples * self.tokens), n)
        cells[:, self.place] = row
        return (cells + (n + 1) * torch.arange(devices, device=cells.device)[:, None]).flatten()


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def _full(examples: int, tokens: int, where: torch.device) -> Packing:
    """The layout of sentences of a single device that are all as long as the batch is wide.

    It is kept, for training too, which can do nothing with tensors of inference mode.
    """
    place = torch.arange(examples * tokens).view(tokens, examples)
    return Packing(
        examples=examples,
        tokens=tokens,
        steps=[examples] * tokens,
        full=True,
        mirror=sent(place.flip(0).flatten(), where),
        real=sent(torch.ones(examples * tokens, dtype=torch.bool), where),
        lengths=sent(torch.full((examples,), tokens), where),
    )


def sent(values: Tensor, where: torch.device) -> Tensor:
    """A tensor on a device, from pinned memory, so that nothing waits for its arrival."""
    if where == values.device or values.device.type != "cpu":
        return values.to(where)
    return values.pin_memory().to(where, non_blocking=True)


def _places(steps: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First place of each time step; step and sentence of each place."""
    counts = np.array(steps, np.int64)
    first = np.cumsum(counts) - counts
    step = np.repeat(np.arange(len(counts)), counts)
    return first, step, np.arange(len(step)) - first[step]


class _Mirrored(torch.autograd.Function):
    """Places swapped in pairs: its own derivative, which autograd would build by adding up."""

    @staticmethod
    def forward(ctx, packed: Tensor, mirror: Tensor) -> Tensor:
        ctx.save_for_backward(mirror)
        return _swapped(packed, mirror)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _swapped(grad, *ctx.saved_tensors), None


class _Highest(torch.autograd.Function):
    """`amax`, whose own derivative compares by way of truth values: five times slower on a CPU."""

    @staticmethod
    def forward(ctx, values: Tensor, dim: int):
        highest = values.amax(dim)
        ctx.save_for_backward(values, highest)
        ctx.dim = dim
        return highest

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        values, highest = ctx.saved_tensors
        is_highest, count = among_highest(values, highest, ctx.dim)
        return is_highest.mul_((grad / count).unsqueeze(ctx.dim)), None


def among_highest(values: Tensor, highest: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """1 for values that equal their maximum and 0 for the others; and how many do, at least 1.

    Those that are equal share the gradient of the maximum.
    """
    is_highest = (values - highest.unsqueeze(dim)).ge_(0)
    return is_highest, is_highest.sum(dim).clamp_(min=1)


class _Spread(torch.autograd.Function):
    """Words moved to cells by one selection of rows; its derivative is one, too.

    (devices, n, features) -> (devices, examples x tokens, features).
    """

    @staticmethod
    def forward(ctx, packed: Tensor, source: Tensor, place: Tensor, real: Tensor, otherwise: float):
        ctx.save_for_backward(place, real)
        devices, _, features = packed.shape
        behind = packed.new_full((devices, 1, features), otherwise)
        rows = torch.cat([packed, behind], dim=-2).flatten(0, 1)
        return rows.index_select(0, source).view(devices, -1, features)

    @staticmethod
    def backward(ctx, grad: Tensor):
        place, real = ctx.saved_tensors
        moved = grad.index_select(-2, place).masked_fill_(~real.unsqueeze(-1), 0)
        return moved, None, None, None, None


def _swapped(packed: Tensor, mirror: Tensor) -> Tensor:
    if mirror.dim() == 1:
        return packed.index_select(-2, mirror)
    return packed.gather(-2, mirror.unsqueeze(-1).expand(packed.shape))
