"""Other ways to the nearest texts, as Systems: scikit-learn and gensim, each as its documentation would have it."""

import importlib
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from labkit.bench.answering import Answering
from labkit.core.errors import UsageError
from labkit.core.recipe import KnobValue
from labkit.core.workload import Workload
from labkit.peers.base import import_package

Judge = Callable[[str, Callable[[Sequence[str]], Sequence[Sequence[int]]]], Mapping[str, float]]
"""Quality at an effort of what finds the positions of the nearest texts; it is the same for all Systems."""


@dataclass(frozen=True)
class Task:
    """What a peer is given: the texts to be found, those that ask, how to split a text, and who judges."""

    indexed: Sequence[str]
    queries: Sequence[str]
    terms: Callable[[str], list[str]]
    judge: Judge
    neighbours: int


class SimilarityPeer(Answering):
    """An index by another library: vectors of texts, and scores of all texts for a vector."""

    package: ClassVar[str]

    def __init__(self, task: Task, *, rank: int) -> None:
        super().__init__(task.queries)
        self.task, self.rank = task, rank
        start_s = time.perf_counter()
        self.index_bytes = self.fit()
        self.fit_s = time.perf_counter() - start_s

    @abstractmethod
    def fit(self) -> int:
        """Learn from the texts; the bytes of the vectors to scan."""

    @abstractmethod
    def vectorize(self, text: str) -> Any:
        """The vector of a text."""

    @abstractmethod
    def scores(self, vector: Any) -> npt.NDArray[np.floating[Any]]:
        """Similarity of each text to a vector."""

    def read(self, texts: Sequence[str], workload: Workload) -> Sequence[Any]:
        """The texts, or their vectors where the workload's queries are vectors."""
        return [self.vectorize(text) for text in texts] if workload.is_vectorized else texts

    def answer(self, inputs: Sequence[Any]) -> Sequence[int]:
        """The nearest of the texts that are found for each query, one query at a time."""
        answers = []
        for each in inputs:
            vector = each
            if isinstance(each, str):
                start_s = time.perf_counter()
                vector = self.vectorize(each)
                self.counters["vectorize_s"] = self.counters.get("vectorize_s", 0.0) + time.perf_counter() - start_s
            answers.append(self._best(self.scores(vector))[0])
        return answers

    def quality(self, effort: str) -> Mapping[str, float]:
        """See System."""
        return self.task.judge(effort, lambda texts: [self._best(self.scores(self.vectorize(text))) for text in texts])

    def facts(self) -> Mapping[str, Any]:
        """See System."""
        version = importlib.import_module(self.package).__version__
        return {
            "weights_bytes": self.index_bytes,
            "index_bytes": self.index_bytes,
            "fit_s": self.fit_s,
            "num_texts": len(self.task.indexed),
            "version": f"{self.package} {version}",
            "kernels": {"scan": self.package},
        }

    def _best(self, scores: npt.NDArray[np.floating[Any]]) -> list[int]:
        best = np.argpartition(-scores, self.task.neighbours - 1)[: self.task.neighbours]
        ordered: list[int] = best[np.argsort(-scores[best])].tolist()
        return ordered


class SklearnPeer(SimilarityPeer):
    """scikit-learn: TfidfVectorizer, TruncatedSVD, and `cosine_similarity` with all texts for each query."""

    package: ClassVar[str] = "sklearn"

    def fit(self) -> int:
        """See SimilarityPeer."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._tfidf = TfidfVectorizer(analyzer=self.task.terms, sublinear_tf=True, dtype=np.float32)
        matrix = self._tfidf.fit_transform(self.task.indexed)
        self._svd = TruncatedSVD(self.rank, random_state=0)
        self._vectors = self._kept(self._svd.fit_transform(matrix))
        return int(self._vectors.nbytes)

    def vectorize(self, text: str) -> Any:
        """See SimilarityPeer."""
        return self._kept(self._svd.transform(self._tfidf.transform([text])))

    def scores(self, vector: Any) -> npt.NDArray[np.floating[Any]]:
        """See SimilarityPeer."""
        from sklearn.metrics.pairwise import cosine_similarity

        found: npt.NDArray[np.floating[Any]] = cosine_similarity(vector, self._vectors)[0]
        return found

    def _kept(self, vectors: Any) -> Any:
        return vectors


class SklearnLinearPeer(SklearnPeer):
    """scikit-learn with vectors of length 1 and `linear_kernel`, as its guide advises for speed."""

    def scores(self, vector: Any) -> npt.NDArray[np.floating[Any]]:
        """See SimilarityPeer."""
        from sklearn.metrics.pairwise import linear_kernel

        found: npt.NDArray[np.floating[Any]] = linear_kernel(vector, self._vectors)[0]
        return found

    def _kept(self, vectors: Any) -> Any:
        from sklearn.preprocessing import normalize

        return normalize(vectors)


class GensimPeer(SimilarityPeer):
    """gensim: TfidfModel, LsiModel and MatrixSimilarity."""

    package: ClassVar[str] = "gensim"

    def fit(self) -> int:
        """See SimilarityPeer."""
        gensim = import_package("gensim", peer="gensim", remedy="pip install 'labkit[peers]'")
        for name in ("corpora", "models", "similarities"):
            importlib.import_module(f"gensim.{name}")
        split = [self.task.terms(text) for text in self.task.indexed]
        self._dictionary = gensim.corpora.Dictionary(split)
        bags = [self._dictionary.doc2bow(terms) for terms in split]
        self._tfidf = gensim.models.TfidfModel(bags)
        weighed = self._tfidf[bags]
        self._lsi = gensim.models.LsiModel(weighed, id2word=self._dictionary, num_topics=self.rank, random_seed=0)
        self._index = gensim.similarities.MatrixSimilarity(self._lsi[weighed], num_features=self.rank)
        return int(self._index.index.nbytes)

    def vectorize(self, text: str) -> Any:
        """See SimilarityPeer."""
        return self._lsi[self._tfidf[self._dictionary.doc2bow(self.task.terms(text))]]

    def scores(self, vector: Any) -> npt.NDArray[np.floating[Any]]:
        """See SimilarityPeer."""
        found: npt.NDArray[np.floating[Any]] = self._index[vector]
        return found


SIMILARITY_PEERS: Mapping[str, type[SimilarityPeer]] = {
    "sklearn_cosine": SklearnPeer,
    "sklearn_linear": SklearnLinearPeer,
    "gensim_lsi": GensimPeer,
}
"""By name; each takes `rank`."""


def open_similarity_peer(name: str, task: Task, options: Mapping[str, KnobValue]) -> SimilarityPeer:
    """Build a peer on these texts.

    Raises:
        UsageError: an unknown peer or option, or a rank out of range. Unavailable: its package is not installed.
    """
    if name not in SIMILARITY_PEERS:
        raise UsageError.unknown("peer of text similarity", name, SIMILARITY_PEERS)
    for option in options:
        if option != "rank":
            raise UsageError.unknown(f"option of peer {name!r}", option, ("rank",))
    rank, most = options.get("rank", 128), len(task.indexed)
    if not (type(rank) is int and 1 <= rank <= most):
        raise UsageError(f"peer {name!r}: rank is {rank!r}; allowed: whole numbers from 1 to {most:,}")
    return SIMILARITY_PEERS[name](task, rank=rank)
