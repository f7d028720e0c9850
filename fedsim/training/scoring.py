"""What a model says about held-out utterances, computed once a round and read by every probe."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import JointTagger, Parameters
from fedsim.plan import Scores
from fedsim.population import Examples
from fedsim.training.batches import tensors

CHUNK = 128
"""Utterances scored at once; fixed, so that scores do not depend on the number of workers."""


class Scorer:
    """Scores one set of examples under any parameters of one model.

    Args:
      model: supplies `predict`.
      examples: what is scored; sorted by length once and cut into padded chunks.
      map: applies a function to items, in order; the engine's worker pool.
    """

    def __init__(
        self, model: JointTagger, examples: Examples, map: Callable[..., Iterable] = map
    ) -> None:
        self._model, self._map = model, map
        order = np.argsort(-examples.lengths, kind="stable")
        self._chunks: list[tuple[np.ndarray, np.ndarray, dict[str, Tensor]]] = []
        for start in range(0, len(order), CHUNK):
            indices = order[start : start + CHUNK]
            lengths = examples.lengths[indices]
            places = np.repeat(examples.offsets[indices], lengths) + _ramps(lengths)
            self._chunks.append((indices, places, tensors(examples, indices)))
        self._size, self._words = len(examples), len(examples.slots)

    def __call__(
        self, parameters: Parameters, map: Callable[..., Iterable] | None = None
    ) -> Scores:
        """Predictions and losses, in the order of the examples.

        Args:
          parameters: of the model.
          map: instead of the one given at first.
        """
        intents = np.empty(self._size, np.int64)
        slots = np.empty(self._words, np.int64)
        losses = np.empty(self._size, np.float32)

        def score(batch: dict[str, Tensor]):
            with torch.no_grad():
                return self._model.predict(parameters, batch)

        said = (map or self._map)(score, [batch for _, _, batch in self._chunks])
        for (indices, places, batch), predicted in zip(self._chunks, said, strict=True):
            intents[indices] = predicted.intents.numpy()
            losses[indices] = predicted.losses.numpy()
            slots[places] = predicted.slots[batch["slots"] >= 0].numpy()
        return Scores(intents, slots, losses)


def _ramps(lengths: np.ndarray) -> np.ndarray:
    """0 .. length - 1 for each length, joined."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
