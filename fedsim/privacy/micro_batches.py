"""What does it cost to clip the mean gradient of several examples as one?

Clipping micro-batches is cheap where per-example gradients are not, and it is how DP-SGD has been
made fast for language models (Dupuy et al., ICASSP 2022, https://arxiv.org/abs/2107.14586). The
price is the guarantee: a zeroed record turns one clipped mean into another, which may point the
opposite way, so the sum moves by up to 2 C, not C, and the noise counts for half.

That holds only if no other micro-batch moves. So a record's micro-batch follows from a hash of the
record's own place and a key, whoever else is in the batch; places are those of all records held, a
null record keeps its own. Sizes of micro-batches vary, and empty ones add nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.models.grouping import grouped
from fedsim.privacy.clipping import Clipping, Flat, Terms
from fedsim.privacy.events import MICRO_BATCHES


@dataclass(frozen=True, kw_only=True)
class MicroBatches:
    """The mean gradient of each micro-batch is clipped; clipped means are added up.

    Attributes:
      size: expected examples of a micro-batch, >= 1. A step has ceil(expected batch / size) of
        them, whatever was drawn.
      within: how each mean gradient is clipped.

    Example:
      >>> MicroBatches(size=4).sensitivity
      2.0
      >>> MicroBatches(size=4).expected(torch.tensor(18.0)).tolist()
      5.0
    """

    size: int
    within: Clipping = field(default_factory=Flat)

    whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.size >= 1, f"size of micro-batches is {self.size}; choose 1 or more")
        require(
            not self.within.whole,
            "within of MicroBatches is MicroBatches again; choose Flat, PerLayer or Automatic",
        )

    def sized_for(self, parameters: Mapping[str, Tensor]) -> Clipping:
        """With means clipped as a model of these parameters wants it."""
        return replace(self, within=self.within.sized_for(parameters))

    @property
    def bound(self) -> float:
        """Largest norm of a clipped mean."""
        return self.within.bound

    @property
    def sensitivity(self) -> float:
        """One clipped mean goes, another comes."""
        return MICRO_BATCHES * self.within.bound

    def terms(
        self, losses: Any, batch: Mapping[str, Tensor], key: Tensor | None, most: int
    ) -> list[Terms]:
        """Every micro-batch is a term.

        A single device's are worked on from the largest to the smallest, so that those of a part
        are about as large and little is padded; a stack of devices is one part.

        Args:
          losses: per-example losses.
          batch: a logical batch, with `record` (..., examples), the place of each example among
            those held, as `fedsim.training.batches.tensors` gives it; weights are shares in a mean.
          key: () int64.
          most: examples of a part, but for one micro-batch more.
        """
        assert key is not None
        counts = self.expected(batch["size"]).long()
        groups = int(counts.max())
        slot = slots(batch["record"], key, counts.unsqueeze(-1))
        slot = torch.where(batch["weight"] > 0, slot, groups)
        if slot.dim() > 1:
            return [_means(losses, batch, slot, groups)]
        sizes = torch.bincount(slot, minlength=groups + 1)[:groups]
        size, order = sizes.sort(descending=True, stable=True)
        part = (size.cumsum(0) - 1).clamp(min=0) // most
        found = []
        for number in part.unique():
            own = order[part == number]
            # A micro-batch's number in its part; those elsewhere have none.
            place = slot.new_full((groups + 1,), -1)
            place[own] = torch.arange(len(own), device=own.device)
            rows = (place[slot] >= 0).nonzero().squeeze(-1)
            chosen = {name: value[rows] for name, value in batch.items() if value.dim()}
            found.append(_means(losses, chosen, place[slot[rows]], len(own)))
        return found

    def expected(self, size: Tensor) -> Tensor:
        """Micro-batches of a batch of so many expected examples."""
        return (size / self.size).ceil().clamp(min=1)

    def factors(self, squares: Tensor, names: Any, clip_norm: float | Tensor) -> Tensor:
        """Those of `within`, for mean gradients."""
        return self.within.factors(squares, names, clip_norm)


def _means(losses: Any, batch: Mapping[str, Tensor], slot: Tensor, groups: int) -> Terms:
    """A term for each micro-batch, and a last one, of weight 0, for examples without one."""
    weight = batch["weight"]
    totals = weight.new_zeros(*weight.shape[:-1], groups + 1).scatter_add(-1, slot, weight)
    share = torch.where(weight > 0, weight / totals.gather(-1, slot), 0.0)
    means = grouped(losses, slot, share, groups)
    return Terms(means, {**batch, "weight": (totals > 0).to(weight.dtype)}, totals)


def slots(records: Tensor, key: Tensor, counts: Tensor) -> Tensor:
    """A slot for each record, by a hash of its own.

    SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014), twice.

    Args:
      records: (..., examples) int64 places.
      key: () int64.
      counts: (..., 1) int64 slots to choose from, >= 1.

    Returns:
      (..., examples) int64 in [0, counts).

    Example:
      >>> key, four = torch.tensor(7), torch.tensor([4])
      >>> many, few = torch.tensor([3, 5, 8]), torch.tensor([5, 8])
      >>> slots(many, key, four)[1:].equal(slots(few, key, four))
      True
    """
    return torch.remainder(_mixed(_mixed(records + key)), counts)


def _mixed(x: Tensor) -> Tensor:
    # Shifts of int64 carry the sign: the mask takes it away again.
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * (0x94D049BB133111EB - (1 << 64))
    return x ^ ((x >> 31) & ((1 << 33) - 1))
