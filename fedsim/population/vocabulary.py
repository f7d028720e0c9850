"""From words to rows of an embedding table.

The default is a hashed vocabulary: which row a word takes depends on its letters alone, so the
model reveals nothing about which words people used. Each word takes several rows (the whole word,
its first and its last letters), so that unseen words still resemble seen ones and a
collision in one row is told apart by the others.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np


class Vocabulary(Protocol):
    """Words to rows. Row 0 is padding and is never given to a word."""

    @property
    def rows(self) -> int:
        """Rows of the embedding table, padding included."""

    @property
    def pieces(self) -> int:
        """Rows a word takes; its vector is their scaled sum."""

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Rows of each word, shape (tokens, pieces) int32, values in 1 .. rows - 1."""

    def describe(self) -> str:
        """One phrase for the record."""


@dataclass(frozen=True)
class HashedVocabulary:
    """Rows from hashes of a word, its prefix and its suffix; independent of any data.

    Attributes:
      buckets: hash buckets shared by all pieces.

    Example:
      >>> words = HashedVocabulary(4096)
      >>> words.encode(["lamp", "LAMP"]).tolist() == [words.encode(["lamp"])[0].tolist()] * 2
      True
    """

    buckets: int = 8192
    pieces: int = 4

    @property
    def rows(self) -> int:
        """Buckets and the padding row."""
        return self.buckets + 1

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Rows of each word, shape (tokens, pieces) int32."""
        rows = [_hashed(token, self.buckets, self.pieces) for token in tokens]
        return np.array(rows, dtype=np.int32).reshape(len(rows), self.pieces)

    def describe(self) -> str:
        """One phrase for the record."""
        return f"hashed, {self.buckets} buckets, {self.pieces} pieces a word, independent of data"


@lru_cache(maxsize=1 << 17)
def _hashed(token: str, buckets: int, pieces: int) -> tuple[int, ...]:
    word = token.casefold()
    parts = ("w" + word, "p" + word[:3], "s" + word[-3:], "q" + word[:5])[:pieces]
    return tuple(1 + zlib.crc32(part.encode("utf-8", "replace")) % buckets for part in parts)


@dataclass(frozen=True)
class CorpusVocabulary:
    """One row a word that occurs in the training text; row 1 is every other word.

    Built from people's text, so the list of words itself is a release: the record names it.
    """

    words: tuple[str, ...]
    pieces = 1

    @classmethod
    def build(cls, sentences: Iterable[Sequence[str]], size: int = 20_000) -> "CorpusVocabulary":
        """The `size` most frequent words, ties in alphabetical order."""
        counts = Counter(word.casefold() for sentence in sentences for word in sentence)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[:size]))

    @property
    def rows(self) -> int:
        """Words, the unknown word and the padding row."""
        return len(self.words) + 2

    @cached_property
    def _row(self) -> dict[str, int]:
        return {word: i + 2 for i, word in enumerate(self.words)}

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Rows of each word, shape (tokens, 1) int32."""
        rows = [self._row.get(token.casefold(), 1) for token in tokens]
        return np.array(rows, dtype=np.int32).reshape(-1, 1)

    def describe(self) -> str:
        """One phrase for the record."""
        return f"corpus-built, {len(self.words)} words read from the training text"
