"""Text similarity as a System: held-out texts ask for the ten nearest of the others.

The naive reference is plain TF-IDF with every text looked at: its ten nearest are what recall is counted against.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from labkit.bench.answering import Answering
from labkit.core.errors import UsageError
from labkit.core.workload import Workload
from labkit.text.corpus import TEST_SHARE, Corpus
from labkit.text.similarity import Settings, SimilarityIndex

NEIGHBOURS = 10
QUERIES: Mapping[str, int] = {"glance": 50, "quick": 200, "standard": 500, "rigorous": 5_000}
"""About how many held-out texts quality is measured on, by effort; no more than there are."""


class SimilaritySystem(Answering):
    """An index under test, and the texts that ask it."""

    def __init__(self, index: SimilarityIndex, queries: Corpus, *, fit_s: float) -> None:
        super().__init__(queries.texts, batch_size=index.settings.batch_size)
        self.index, self.queries, self.fit_s = index, queries, fit_s

    @classmethod
    def build(cls, corpus: Corpus, settings: Settings, *, device: str = "cpu") -> "SimilaritySystem":
        """Index the larger part of a corpus; the other part asks.

        Raises:
            UsageError: the corpus is too small, or has no such rank.
        """
        indexed, queries = parts(corpus)
        start_s = time.perf_counter()
        index = SimilarityIndex.build(indexed, settings, device=device)
        fit_s = time.perf_counter() - start_s
        known = [at for at, text in enumerate(queries.texts) if index.vectorizer.weights(text)]
        return cls(index, queries.take(known), fit_s=fit_s)

    def read(self, texts: Sequence[str], workload: Workload) -> Sequence[Any]:
        """The texts or, where the workload's queries are vectors, these: [1, rank] each."""
        return [self.index.vectorize([text]) for text in texts] if workload.is_vectorized else texts

    def answer(self, inputs: Sequence[Any]) -> Sequence[int]:
        """Position of the nearest of the ten texts that are found for each query."""
        if isinstance(inputs[0], str):
            start_s = time.perf_counter()
            vectors = self.index.vectorize(inputs)
            self.counters["vectorize_s"] = self.counters.get("vectorize_s", 0.0) + time.perf_counter() - start_s
        else:
            vectors = torch.cat(tuple(inputs)) if len(inputs) > 1 else inputs[0]
        nearest: list[int] = self.index.search(vectors, NEIGHBOURS).positions[:, 0].tolist()
        return nearest

    def quality(self, effort: str) -> Mapping[str, float]:
        """Recall of the exact TF-IDF neighbours, and how many neighbours come from the query's own module."""
        return judged(self.index.corpus, self.queries, effort, lambda texts: _nearest(self.index, texts))

    def facts(self) -> Mapping[str, Any]:
        """See System."""
        held = [part for part in (self.index.projection,) if part is not None]
        return {
            "weights_bytes": self.index.scan.num_bytes + sum(part.nbytes for part in held),
            "index_bytes": self.index.scan.num_bytes,
            "read_bytes": self.index.scan.read_bytes,
            "num_texts": len(self.index),
            "fit_s": self.fit_s,
            "threads": torch.get_num_threads(),
            "kernels": {"scan": self.index.scan.kernel},
        }


def parts(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """What is indexed and what asks: the split by topic or, without topics, every fifth text asks.

    Raises:
        UsageError: fewer texts than a query has neighbours would be indexed.
    """
    every = round(1 / TEST_SHARE)
    asking = range(0, len(corpus), every)
    indexed, queries = (
        corpus.split()
        if len(corpus.topics) > 1
        else (corpus.take([at for at in range(len(corpus)) if at % every]), corpus.take(asking))
    )
    if len(indexed) < NEIGHBOURS:
        raise UsageError(
            f"a corpus of {len(corpus)} texts was asked for, {len(indexed)} of them to be found; "
            f"allowed: {NEIGHBOURS} or more to be found; bring a larger corpus"
        )
    return indexed, queries


def judged(
    indexed: Corpus, queries: Corpus, effort: str, nearest: Callable[[Sequence[str]], Sequence[Sequence[int]]]
) -> dict[str, float]:
    """Quality of what `nearest` finds for the first queries: recall and precision, each from 0 to 1.

    recall_at_10: neighbours that exact TF-IDF has too. precision_at_10: neighbours of the query's own module, or
    topic where the corpus is of one module; absent where it has no topics either.
    """
    exact = SimilarityIndex.build(indexed)
    stride = max(1, len(queries) // QUERIES[effort])
    known = [at for at in range(0, len(queries), stride) if exact.vectorizer.weights(queries.texts[at])]
    texts = [queries.texts[at] for at in known]
    found, wanted = nearest(texts), _nearest(exact, texts)
    quality = {
        "recall_at_10": sum(len({*a} & {*b}) for a, b in zip(found, wanted, strict=True)) / (NEIGHBOURS * len(texts))
    }
    kinds, own = (indexed.modules, queries.modules) if len({*indexed.modules}) > 1 else (indexed.labels, queries.labels)
    if len({*kinds}) > 1:
        hits = sum(kinds[at] == own[query] for query, row in zip(known, found, strict=True) for at in row)
        quality["precision_at_10"] = hits / (NEIGHBOURS * len(texts))
    return quality


def _nearest(index: SimilarityIndex, texts: Sequence[str]) -> list[list[int]]:
    rows: list[list[int]] = []
    for first in range(0, len(texts), 64):
        rows += index.search(index.vectorize(texts[first : first + 64]), NEIGHBOURS).positions.tolist()
    return rows
