"""Text similarity by SVD: the inner products of two matrices at rank k, and an index that finds the nearest texts.

An index: TF-IDF vectors, shortened by a truncated SVD to `rank` numbers of length 1, whose inner product is the cosine.
Texts that share no word can be near each other then, for the factors stand for what occurs together (Deerwester et
al., "Indexing by latent semantic analysis", 1990). Without a rank the index is plain TF-IDF.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labkit.core.errors import UsageError
from labkit.text.corpus import Corpus
from labkit.text.scan import DTYPES, Found, Scan, SparseScan
from labkit.text.svd import to_torch, truncated_svd, with_rows
from labkit.text.vectorizer import Vectorizer
from labkit.text.words import terms

_TERM_BYTES = 250  # of a term: its text, its column and its weight in a dictionary
_NUMBER_BYTES = {"fp16": 2, "int8": 3}  # int8 to scan, fp16 to judge the best by

Matrix = Sequence[Sequence[float]] | npt.ArrayLike


def text_similarity(X: Matrix, Y: Matrix, k: int) -> npt.NDArray[np.float64]:  # noqa: N803 - the field's names
    """Inner products of the rows of two matrices, each at its best approximation of rank k: [rows of X, rows of Y].

    With k equal to the rank of both that is X · Yᵀ: `text_similarity([[1, 2], [3, 4]], [[5, 6], [7, 8]], 2)` gives
    [[17, 23], [39, 53]].

    Raises:
        UsageError: rows of different lengths, a value that is no finite number, matrices of different widths, or k
        is below 1 or above a rank.
    """
    (u, s, vt), (w, t, zt) = (_factors(name, matrix, k) for name, matrix in (("X", X), ("Y", Y)))
    if vt.shape[1] != zt.shape[1]:
        raise UsageError(f"X has {vt.shape[1]} columns and Y {zt.shape[1]}; allowed: as many in both")
    return (u * s) @ (vt @ zt.T) @ (w * t).T


def _factors(name: str, matrix: Matrix, k: int) -> tuple[npt.NDArray[np.float64], ...]:
    try:
        array = np.asarray(matrix, dtype=np.float64)
    except (ValueError, TypeError):
        raise UsageError(f"{name} is no matrix of numbers; allowed: rows of one length") from None
    if array.ndim != 2 or not array.size:
        raise UsageError(f"{name} has the shape {array.shape}; allowed: rows and columns, one of each or more")
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds a value that is not finite; allowed: finite numbers")
    u, s, vt = np.linalg.svd(array, full_matrices=False)
    rank = int((s > s[0] * max(array.shape) * np.finfo(np.float64).eps).sum())
    if k not in range(1, rank + 1):
        raise UsageError(f"k is {k!r}; allowed: whole numbers from 1 to {rank}, the rank of {name}")
    k = int(k)
    return u[:, :k], s[:k], vt[:k]


@dataclass(frozen=True)
class Settings:
    """How an index is built and searched; `rank` 0: plain TF-IDF. `batch_size`: queries searched together."""

    rank: int = 0
    algorithm: str = "randomized"
    dtype: str = "fp32"
    batch_size: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Match:
    """A text that is near a query: its cosine, its place in the index, what it is called and what it says."""

    score: float
    position: int
    name: str
    text: str


class SimilarityIndex:
    """Texts that can be searched by similarity, more of which can be added; see the module."""

    def __init__(
        self, corpus: Corpus, vectorizer: Vectorizer, settings: Settings, vectors: Tensor, projection: Tensor | None
    ) -> None:
        """Put together what `build` computed, or `text.saved_index.load` read.

        Args:
            corpus: the texts, in order.
            vectors: [n, rank] of length 1 or, without a rank, [n, terms] in compressed rows.
            projection: [terms, rank], what a text's weights are multiplied by; None without a rank.
        """
        if settings.dtype not in DTYPES:
            raise UsageError.unknown("dtype of vectors", settings.dtype, DTYPES)
        self.corpus, self.vectorizer, self.settings, self.projection = corpus, vectorizer, settings, projection
        self.scan: Scan = SparseScan(vectors) if projection is None else DTYPES[settings.dtype](vectors)

    @classmethod
    def build(cls, corpus: Corpus, settings: Settings = Settings(), *, device: str = "cpu") -> "SimilarityIndex":
        """Vectorize the texts and shorten the vectors.

        Raises:
            UsageError: no text has a word, or the corpus has no such rank.
        """
        vectorizer, matrix = Vectorizer.fit(corpus.texts)
        if not settings.rank:
            return cls(corpus, vectorizer, settings, to_torch(matrix).to(device), None)
        factors = truncated_svd(matrix, settings.rank, algorithm=settings.algorithm, device=device, seed=settings.seed)
        projection = factors.vt.T.contiguous()
        # not u · s: where factors are approximate that differs, and texts are to lie where the same query does
        vectors = torch.nn.functional.normalize(to_torch(matrix).to(device) @ projection, dim=1)
        return cls(corpus, vectorizer, settings, vectors, projection)

    def __len__(self) -> int:
        return len(self.corpus)

    @property
    def vectors(self) -> Tensor:
        """Those of the texts, in order, as they are kept."""
        return self.scan.vectors

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """The vectors of texts, of length 1: [texts, rank], or [texts, terms] without a rank.

        Raises:
            UsageError: a text is empty, or has no word that the corpus has.
        """
        columns, weights, starts = self.vectorizer.bags(texts)
        if self.projection is None:
            sizes = torch.diff(starts, append=torch.tensor([len(columns)]))
            dense = torch.zeros(len(texts), len(self.vectorizer.terms))
            dense[torch.arange(len(texts)).repeat_interleave(sizes), columns] = weights
            return dense.to(self.vectors.device)
        device = self.projection.device
        bags = torch.nn.functional.embedding_bag(
            columns.to(device), self.projection, starts.to(device), per_sample_weights=weights.to(device), mode="sum"
        )
        return torch.nn.functional.normalize(bags, dim=1)

    def search(self, vectors: Tensor, k: int) -> Found:
        """The k nearest texts of each query vector: cosines and positions, the best first.

        Raises:
            UsageError: k is below 1 or above the number of texts.
        """
        return self.scan.top(vectors, k)

    def similar(self, text: str, k: int = 10) -> list[Match]:
        """The k texts most like this one, the best first.

        Raises:
            UsageError: the text is empty or has no known word, or k is below 1 or above the number of texts.
        """
        scores, positions = (found[0].tolist() for found in self.search(self.vectorize([text]), k))
        return [
            Match(score, at, self.corpus.names[at], self.corpus.texts[at])
            for score, at in zip(scores, positions, strict=True)
        ]

    def add(self, more: Corpus) -> "SimilarityIndex":
        """An index of these texts and more, at the price of vectorizing the new ones: terms and factors stay.

        Raises:
            UsageError: a text has no word that the index knows.
        """
        if self.projection is None:
            vectors = with_rows(self.vectors, *self.vectorizer.bags(more.texts))
        else:
            vectors = torch.cat([self.vectors, self.vectorize(more.texts).to(self.vectors.dtype)])
        return SimilarityIndex(self.corpus.joined(more), self.vectorizer, self.settings, vectors, self.projection)


def forecast_bytes(corpus: Corpus, settings: Settings) -> int:
    """About what an index of this corpus will take in memory, from a count of its terms: vectors, terms, texts."""
    counts = [Counter(terms(text)) for text in corpus.texts]
    num_terms = len(set().union(*counts))
    sparse = sum(map(len, counts)) * (4 + 8)
    # vectors are computed in fp32 before they are held in another dtype
    held = 0 if settings.dtype == "fp32" else _NUMBER_BYTES[settings.dtype]
    dense = settings.rank * (len(corpus) * (4 + held) + num_terms * 4)
    return sparse + dense + num_terms * _TERM_BYTES + 2 * sum(map(len, corpus.texts))
