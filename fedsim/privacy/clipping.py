"""How do the gradients of a batch become a sum that no record moves far?

A clipping is one value that answers it for training and for the ledger alike: what is clipped as
one (`terms`), what it is multiplied by (`factors`), and how far one record moves the sum
(`sensitivity`, in units of the clip norm C), which is what the event of a step is made of.

- `Flat`: each example's whole gradient to norm C (Abadi et al., CCS 2016,
  https://arxiv.org/abs/1607.00133).
- `PerLayer`: each layer's part to a norm of its own (McMahan et al., ICLR 2018,
  https://arxiv.org/abs/1710.06963).
- `Automatic`: each gradient normalised instead of clipped (Bu et al., NeurIPS 2023,
  https://arxiv.org/abs/2206.07136).
- `fedsim.privacy.micro_batches.MicroBatches`: mean gradients of groups of examples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from fedsim.errors import ConfigError, require
from fedsim.privacy.events import layer_wise

if TYPE_CHECKING:
    from torch import Tensor


class Terms(NamedTuple):
    """What is clipped as one, and added up.

    Attributes:
      losses: (parameters, batch) -> (..., terms) losses.
      batch: the examples; `weight` (..., terms) multiplies the clipped gradients.
      counts: (..., terms) examples that a term stands for.
    """

    losses: Any
    batch: Mapping[str, "Tensor"]
    counts: "Tensor"


class Clipping(Protocol):
    """One way of clipping: a frozen value."""

    whole: ClassVar[bool]
    """Whether terms can be told from a whole logical batch alone, and a key has to be drawn."""

    def sized_for(self, parameters: Mapping[str, "Tensor"]) -> "Clipping":
        """The same for a model of these parameters, of which it reads names and sizes alone."""

    @property
    def bound(self) -> float:
        """Largest norm of one term of the sum, in units of C."""

    @property
    def sensitivity(self) -> float:
        """How far one record, zeroed, moves the sum at most, in units of C."""

    def terms(
        self, losses: Any, batch: Mapping[str, "Tensor"], key: "Tensor | None", most: int
    ) -> list[Terms]:
        """What is clipped as one, in parts to be worked on one after another.

        Args:
          losses: per-example losses of the model.
          batch: all or a part of a logical batch, see `whole`.
          key: () int64 that changes from step to step, where `whole`.
          most: examples of a part, about.
        """

    def expected(self, size: "Tensor") -> "Tensor":
        """Terms of a batch of `size` (...) expected examples: a constant that divides the sum."""

    def factors(
        self, squares: "Tensor", names: Sequence[Sequence[str]], clip_norm: "float | Tensor"
    ) -> "Tensor":
        """What gradients are multiplied by.

        Args:
          squares: (layers, ..., terms) squared norms of each layer's gradient.
          names: the parameters of each layer.
          clip_norm: C, a number or (..., 1).

        Returns:
          (layers, ..., terms), or (1, ..., terms) where all layers share one.
        """


class _EachExample:
    """Every example is a term, whose norm is at most C unless said otherwise."""

    whole: ClassVar[bool] = False

    def sized_for(self, parameters: Mapping[str, "Tensor"]) -> Self:
        """Itself: nothing depends on the model."""
        return self

    @property
    def bound(self) -> float:
        """Largest norm of a term, in units of C."""
        return 1.0

    @property
    def sensitivity(self) -> float:
        """As much: a record is one term, and a zeroed one is none."""
        return self.bound

    def terms(
        self, losses: Any, batch: Mapping[str, "Tensor"], key: "Tensor | None", most: int
    ) -> list[Terms]:
        """Every example is a term."""
        return [Terms(losses, batch, batch["weight"])]

    def expected(self, size: "Tensor") -> "Tensor":
        """As many as examples."""
        return size


@dataclass(frozen=True, kw_only=True)
class Flat(_EachExample):
    """Every example's gradient is clipped as a whole, by min(1, C / norm).

    Example:
      >>> import torch
      >>> Flat().factors(torch.tensor([[9.0], [16.0]]), [["a"], ["b"]], 1.0).tolist()
      [[0.20000000298023224]]
    """

    def factors(
        self, squares: "Tensor", names: Sequence[Sequence[str]], clip_norm: "float | Tensor"
    ) -> "Tensor":
        """One factor for all layers."""
        return (clip_norm / _norms(squares)).clamp_(max=1.0).unsqueeze(0)


@dataclass(frozen=True, kw_only=True)
class Automatic(_EachExample):
    """Every example's gradient is normalised, by C / (norm + stability): no threshold to tune.

    Its norm stays below C, so that C only scales the step; a plain sum of directions would not
    converge, which is what `stability` is for.

    Attributes:
      stability: gamma, > 0; 0.01 is the paper's.

    Example:
      >>> import torch
      >>> Automatic().factors(torch.tensor([[9.0], [16.0]]), [["a"], ["b"]], 5.01).tolist()
      [[1.0]]
    """

    stability: float = 0.01

    def __post_init__(self) -> None:
        require(
            0 < self.stability < math.inf,
            f"stability is {self.stability}; choose a finite number above 0, such as 0.01",
        )

    def factors(
        self, squares: "Tensor", names: Sequence[Sequence[str]], clip_norm: "float | Tensor"
    ) -> "Tensor":
        """One factor for all layers, above 1 for short gradients."""
        return (clip_norm / (_norms(squares) + self.stability)).unsqueeze(0)


@dataclass(frozen=True, kw_only=True)
class PerLayer(_EachExample):
    """Every example's gradient is clipped layer by layer, to scale x C each.

    Attributes:
      scales: how the names of a layer's parameters begin -> threshold in units of C, > 0. Where
        several fit, the longest counts; layers with the same one are clipped together. None is
        `by_size`, C for all layers together, once the model is known.

    Example:
      >>> import torch
      >>> layers = PerLayer(scales={"a": 3.0, "b": 4.0})
      >>> layers.sensitivity
      5.0
      >>> layers.factors(torch.tensor([[81.0], [1.0]]), [["a_weight"], ["b"]], 1.0).tolist()
      [[0.3333333432674408], [1.0]]
      >>> shapes = {"a_weight": torch.empty(3, 3), "b": torch.empty(16)}
      >>> PerLayer.by_size(shapes).scales
      {'a': 0.6, 'b': 0.8}
    """

    scales: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.scales is None:
            return
        require(bool(self.scales), "scales is empty; give every layer a threshold")
        for name, scale in self.scales.items():
            require(
                0 < scale < math.inf,
                f"scales of {name!r} is {scale}; choose a finite number above 0",
            )

    @classmethod
    def by_size(cls, parameters: Mapping[str, "Tensor"]) -> Self:
        """Thresholds in proportion to the root of each layer's size, C for all layers together.

        So every coordinate has the same share of the norm and of the noise. Layers are told apart
        by the first word of their parameters' names, and nothing but public shapes is used.
        """
        sizes: dict[str, int] = {}
        for name, p in parameters.items():
            layer = name.replace(".", "_").split("_")[0]
            sizes[layer] = sizes.get(layer, 0) + p.numel()
        total = sum(sizes.values())
        return cls(scales={layer: math.sqrt(size / total) for layer, size in sizes.items()})

    def sized_for(self, parameters: Mapping[str, "Tensor"]) -> Self:
        """With thresholds by size, where none are given."""
        return self if self.scales is not None else self.by_size(parameters)

    @property
    def bound(self) -> float:
        """Joint threshold of all layers; 1, up to rounding, where they go by size."""
        return 1.0 if self.scales is None else layer_wise(self.scales.values())

    def factors(
        self, squares: "Tensor", names: Sequence[Sequence[str]], clip_norm: "float | Tensor"
    ) -> "Tensor":
        """A factor for each layer.

        Raises:
          ConfigError: a layer has no threshold or several, or a threshold has no layer.
        """
        if self.scales is None:
            raise ConfigError("scales is None, and no model is known; call sized_for() first")
        which = squares.new_tensor(_layers(self.scales, names)).long()
        scales = squares.new_tensor(list(self.scales.values()))
        joint = squares.new_zeros(len(scales), *squares.shape[1:]).index_add_(0, which, squares)
        bounds = clip_norm * scales.view(-1, *[1] * (squares.dim() - 1))
        return (bounds / joint.clamp_(min=0).sqrt_()).clamp_(max=1.0).index_select(0, which)


def _layers(scales: Mapping[str, float], names: Sequence[Sequence[str]]) -> list[int]:
    """The threshold of each layer, by its place."""
    keys, found = list(scales), list[int]()
    for layer in names:
        fitting = {_threshold(keys, name) for name in layer}
        require(
            len(fitting) == 1 and -1 not in fitting,
            f"the layer of {', '.join(layer)} has no threshold of its own among the scales of "
            f"{', '.join(keys)}; name a beginning that all its parameters share",
        )
        found += fitting
    unused = [key for number, key in enumerate(keys) if number not in found]
    require(
        not unused,
        f"scales has {', '.join(unused)}, which no layer's parameters begin with; leave it out,"
        " since it adds to the noise",
    )
    return found


def _threshold(keys: Sequence[str], name: str) -> int:
    """Place of the longest beginning that fits a parameter; -1 where none does."""
    fitting = [key for key in keys if name.startswith(key)]
    return keys.index(max(fitting, key=len)) if fitting else -1


def _norms(squares: "Tensor") -> "Tensor":
    """Norms over all layers: (layers, ..., terms) -> (..., terms)."""
    return squares.sum(0).clamp_(min=0).sqrt_()
