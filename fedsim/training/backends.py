"""Who computes the clipped sum of a private step?

    clipped = backend("book-keeping", model)(model.losses, parameters, batch, clip_norm)

All backends compute the same sum: `book-keeping` is this project's kernel, `opacus-hooks` builds
every example's gradient, `opacus-ghost` takes two backward passes. The two of Opacus are here to be
compared with, and clip flat alone. A model of one's own with layers that the kernel does not know
is worked off example by example: Opacus's hooks watch modules, and a tagger is a function.
"""

from typing import TYPE_CHECKING, Literal, Protocol, get_args

from torch import Tensor

from fedsim.errors import did_you_mean, require
from fedsim.models.joint import Batch, JointTagger, Parameters
from fedsim.privacy.clipping import Flat
from fedsim.training.kernel import Clipped, clipped_gradient
from fedsim.training.kernel.clipping import FLAT, Factors
from fedsim.training.one_by_one import one_by_one
from fedsim.training.procedures import Losses
from fedsim.training.validator import unknown_parameters

if TYPE_CHECKING:
    from fedsim.privacy.example_level import ExampleLevel

BackendName = Literal["book-keeping", "opacus-hooks", "opacus-ghost"]


class ClippedGradient(Protocol):
    """How a clipped sum is computed; `fedsim.training.kernel.clipped_gradient` is one way."""

    def __call__(
        self,
        losses: Losses,
        parameters: Parameters,
        batch: Batch,
        clip_norm: float | Tensor,
        *,
        into: Parameters | None = None,
        factors: Factors = FLAT,
    ) -> Clipped:
        """Sum of the per-example gradients of a batch, each clipped to `clip_norm`."""


def backend(name: str, model: JointTagger) -> ClippedGradient:
    """The way of that name for a tagger.

    Args:
      name: book-keeping, opacus-hooks or opacus-ghost.
      model: the tagger whose losses will be differentiated; those of Opacus compute them with
        a twin of its layers, for a BiLSTM or a transformer tagger, one device at a time.

    Raises:
      ConfigError: the name is not known, or Opacus cannot compute the model.

    Example:
      >>> from fedsim.models import BiLSTMTagger
      >>> model = BiLSTMTagger(rows=9, intents=2, slot_labels=3, embedding=4, hidden=2)
      >>> backend("book-keeping", model) is clipped_gradient
      True
    """
    _require_known(name)
    if name == "book-keeping":
        return one_by_one if unknown_parameters(model) else clipped_gradient
    # Opacus takes a second to import, and only who asks for it should wait.
    from fedsim.training.opacus.gradient import GhostGradient, HooksGradient

    return HooksGradient(model) if name == "opacus-hooks" else GhostGradient(model)


def require_computes(name: str, privacy: "ExampleLevel") -> None:
    """Refuse a way of clipping, or a precision, that a backend does not compute.

    Raises:
      ConfigError: the name is not known, or it is one of Opacus's and clipping is not flat, or
        passes in bfloat16 meet it or micro-batches.
    """
    _require_known(name)
    require(
        privacy.precision == "float32" or (name == "book-keeping" and not privacy.clipping.whole),
        f"precision is {privacy.precision}, whose rounding is accounted for where the backend "
        f"book-keeping clips example by example, and dp_backend is {name!r} with clipping "
        f"{type(privacy.clipping).__name__}; choose float32, or book-keeping without micro-batches",
    )
    how = "adaptive" if privacy.adaptive else type(privacy.clipping).__name__
    require(
        name == "book-keeping" or (privacy.clipping == Flat() and privacy.adaptive is None),
        f"dp_backend is {name!r}, which clips every gradient flat, to one norm, and clipping is "
        f"{how}; choose the backend book-keeping, or flat clipping",
    )


def remarks(name: str, model: JointTagger) -> list[str]:
    """What a reader of a run should know of how its gradients were taken; nothing as a rule."""
    unknown = unknown_parameters(model) if name == "book-keeping" else []
    if not unknown:
        return []
    return [
        f"the clipping kernel does not know the layers of {', '.join(unknown)}; every example "
        "passes the model alone, which is exact and slower"
    ]


def _require_known(name: str) -> None:
    names = get_args(BackendName)
    require(
        name in names,
        f"dp_backend is {name!r}{did_you_mean(name, names)}; choose one of {', '.join(names)}",
    )
