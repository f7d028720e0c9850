"""Utterances as flat arrays, and the padded batches cut from them.

A set of utterances of any lengths is one array of tokens and one of offsets, so that a device is a
slice and a batch is one gather. Nothing here knows about training; NumPy only.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

UNSEEN, UNKNOWN = -1, -2
"""Values of `Examples.device` that are no training device."""

MAX_TOKENS = 128
"""Longer utterances are cut to this many tokens when a corpus is read; the record counts them."""


class Utterance(NamedTuple):
    """One annotated utterance, as a corpus reader yields it.

    Attributes:
      tokens: words, at least one (an empty text is one empty word).
      slots: BIO labels, one a token.
      intent: name of the intent.
      user: who said it, or None where that is not known.
      split: "train", "dev" or "test".
      order: place in the order of collection; any increasing integers.
    """

    tokens: tuple[str, ...]
    slots: tuple[str, ...]
    intent: str
    user: str | None = None
    split: str = "train"
    order: int = 0


class PaddedBatch(NamedTuple):
    """Utterances of one batch, padded to the longest of them.

    Attributes:
      token_ids: (examples, tokens, pieces) int64, 0 is padding.
      lengths: (examples,) int64.
      intents: (examples,) int64.
      slots: (examples, tokens) int64, -1 is padding.
      null: (examples,) bool, records whose slot is kept and whose content is gone.
    """

    token_ids: np.ndarray
    lengths: np.ndarray
    intents: np.ndarray
    slots: np.ndarray
    null: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Utterances as flat arrays; `n` of them with `m` tokens in all.

    Attributes:
      token_ids: (m, pieces) int32 vocabulary rows.
      slots: (m,) int16 slot label ids.
      offsets: (n + 1,) int64; example i holds tokens offsets[i]:offsets[i + 1].
      intents: (n,) int16 intent ids.
      device: (n,) int32; UNSEEN for people who never train, UNKNOWN where nobody is known.
      period: (n,) int16 period it was said in, or -1 where that is not known.
      null: (n,) bool, null records.
    """

    token_ids: np.ndarray
    slots: np.ndarray
    offsets: np.ndarray
    intents: np.ndarray
    device: np.ndarray
    period: np.ndarray
    null: np.ndarray

    def __len__(self) -> int:
        return len(self.intents)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, shape (n,)."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> "Examples":
        """Examples start:stop, as views."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Examples(
            token_ids=self.token_ids[first:last],
            slots=self.slots[first:last],
            offsets=self.offsets[start : stop + 1] - first,
            intents=self.intents[start:stop],
            device=self.device[start:stop],
            period=self.period[start:stop],
            null=self.null[start:stop],
        )

    def take(self, indices: np.ndarray) -> "Examples":
        """The examples at `indices` (or under a boolean mask), copied, in that order."""
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices
        lengths = self.lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = np.repeat(self.offsets[indices] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Examples(
            token_ids=self.token_ids[tokens],
            slots=self.slots[tokens],
            offsets=offsets,
            intents=self.intents[indices],
            device=self.device[indices],
            period=self.period[indices],
            null=self.null[indices],
        )

    def with_(self, **arrays: np.ndarray) -> "Examples":
        """The same examples with some arrays replaced."""
        return replace(self, **arrays)

    def padded(self, indices: np.ndarray) -> PaddedBatch:
        """The examples at `indices`, padded to the longest of them.

        A null record is one padding word with label 0, whatever was said there.
        """
        null = self.null[indices]
        lengths = np.where(null, 1, self.lengths[indices])
        width = int(lengths.max(initial=1))
        column = np.arange(width)
        inside = column < lengths[:, None]
        gather = np.where(inside, self.offsets[indices][:, None] + column, 0)
        token_ids = self.token_ids[gather].astype(np.int64)
        token_ids[~inside | null[:, None]] = 0
        return PaddedBatch(
            token_ids=token_ids,
            lengths=lengths.astype(np.int64),
            intents=np.where(null, 0, self.intents[indices]).astype(np.int64),
            slots=np.where(inside, np.where(null[:, None], 0, self.slots[gather]), -1).astype(
                np.int64
            ),
            null=null,
        )


def concatenate(parts: list[Examples]) -> Examples:
    """Several sets of examples as one, in order; at least one part."""
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Examples)
        if field.name != "offsets"
    }
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Examples(offsets=offsets, **arrays)
