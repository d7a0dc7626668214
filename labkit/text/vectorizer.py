"""Vectorizer: a text as TF-IDF weights of its terms. Fitted by scikit-learn; what it learned is a list and an array."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.core.errors import UsageError
from labkit.text.words import terms

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Vectorizer:
    """Terms in the order of their columns, and the inverse document frequency of each.

    A term that occurs n times in a text weighs (1 + ln n) · idf, and the weights of a text have length 1: what
    scikit-learn's `TfidfVectorizer(sublinear_tf=True)` makes of it, without the matrix of one row around it.
    """

    terms: tuple[str, ...]
    idf: tuple[float, ...]

    @classmethod
    def fit(cls, texts: Sequence[str]) -> "tuple[Vectorizer, csr_array]":
        """The vectorizer of these texts, and their vectors [texts, terms] in fp32.

        Raises:
            UsageError: there is no text, or no word in any.
        """
        import numpy as np
        from scipy.sparse import csr_array
        from sklearn.feature_extraction.text import TfidfVectorizer

        fitted = TfidfVectorizer(analyzer=terms, sublinear_tf=True, dtype=np.float32)
        try:
            matrix = fitted.fit_transform(texts)
        except ValueError:
            raise UsageError(
                f"an index of {len(texts):,} texts was asked for, no word is in any; allowed: texts with words"
            ) from None
        matrix.sort_indices()
        return cls(tuple(fitted.get_feature_names_out().tolist()), tuple(fitted.idf_.tolist())), csr_array(matrix)

    @cached_property
    def _columns(self) -> dict[str, tuple[int, float]]:
        return {term: (at, idf) for at, (term, idf) in enumerate(zip(self.terms, self.idf, strict=True))}

    def weights(self, text: str) -> dict[int, float]:
        """Weight of each known term by its column, in their order; {} where none is known."""
        known = {
            column: (1 + math.log(count)) * idf
            for term, count in Counter(terms(text)).items()
            for column, idf in [self._columns.get(term, (-1, 0.0))]
            if column >= 0
        }
        length = math.sqrt(sum(weight * weight for weight in known.values()))
        return {column: known[column] / length for column in sorted(known)}

    def bags(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Columns and weights of all texts, one after another, and where each text begins.

        Raises:
            UsageError: a text is empty, or holds no word that the corpus has.
        """
        columns: list[int] = []
        weights: list[float] = []
        starts = []
        for text in texts:
            found = self.weights(text)
            if not found:
                seen = "it is empty" if not text.strip() else "none of its words is in the corpus"
                raise UsageError(f"texts like {text[:60]!r} were asked for, {seen}; ask with words of the corpus")
            starts.append(len(columns))
            columns += found.keys()
            weights += found.values()
        return torch.tensor(columns), torch.tensor(weights), torch.tensor(starts)
