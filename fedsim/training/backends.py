"""Who computes the clipped sum of a private step?

    clipped = backend("book-keeping", model)(model.losses, parameters, batch, clip_norm)

All backends compute the same sum: `book-keeping` is this project's kernel, `opacus-hooks` builds
every example's gradient, `opacus-ghost` takes two backward passes. The two of Opacus are here to be
compared with.
"""

from typing import Literal, Protocol, get_args

from fedsim.errors import did_you_mean, require
from fedsim.models.joint import Batch, JointTagger, Parameters
from fedsim.training.kernel import Clipped, clipped_gradient
from fedsim.training.procedures import Losses

BackendName = Literal["book-keeping", "opacus-hooks", "opacus-ghost"]


class ClippedGradient(Protocol):
    """How a clipped sum is computed; `fedsim.training.kernel.clipped_gradient` is one way."""

    def __call__(
        self,
        losses: Losses,
        parameters: Parameters,
        batch: Batch,
        clip_norm: float,
        *,
        into: Parameters | None = None,
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
    names = get_args(BackendName)
    require(
        name in names,
        f"dp_backend is {name!r}{did_you_mean(name, names)}; choose one of {', '.join(names)}",
    )
    if name == "book-keeping":
        return clipped_gradient
    # Opacus takes a second to import, and only who asks for it should wait.
    from fedsim.training.opacus.gradient import GhostGradient, HooksGradient

    return HooksGradient(model) if name == "opacus-hooks" else GhostGradient(model)
