"""Vocabulary: words as numbers, and texts as rows of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from labkit.core.errors import UsageError
from labkit.text.words import words

Ids = npt.NDArray[np.int32]

PADDING, UNKNOWN = 0, 1
_FIRST_WORD = 2


@dataclass(frozen=True)
class Vocabulary:
    """Words by frequency: word i has the id i + 2, behind those of padding and of every unknown word."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str], *, size: int) -> "Vocabulary":
        """The most frequent words of the texts, so many that all ids are below `size`."""
        counts = Counter(word for text in texts for word in words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[: size - _FIRST_WORD]))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each word."""
        return {word: number for number, word in enumerate(self.words, start=_FIRST_WORD)}

    def encode(self, texts: Sequence[str], *, length: int) -> Ids:
        """[N, length]: the first words of each text, the first one last, padded at the end.

        A text says in its first sentence what it is about, and an RNN remembers best what it read last (Sutskever,
        Vinyals and Le 2014 read sentences backwards, too).
        """
        rows = np.full((len(texts), length), PADDING, dtype=np.int32)
        for row, text in zip(rows, texts, strict=True):
            numbers = [self.ids.get(word, UNKNOWN) for word in words(text)[:length]]
            row[: len(numbers)] = numbers[::-1]
        return rows

    def encode_query(self, text: str, *, length: int) -> Ids:
        """[1, length] of a text that somebody asks about.

        Raises:
            UsageError: none of its first words is known, so an answer would say nothing about it.
        """
        row = self.encode([text], length=length)
        if row.max() <= UNKNOWN:
            seen = "it holds no word" if not row.any() else "none of its words is in the vocabulary"
            raise UsageError(
                f"text {text[:60]!r} was to be classified; {seen}; allowed: texts with one known word or more; "
                "remedy: write it in the language of the corpus"
            )
        return row
