"""Scores of a classifier on texts it was not trained on, beside what two simpler ones reach on the same."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labkit.core.errors import Unavailable
from labkit.text.corpus import Corpus
from labkit.text.words import words

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """How often each class was taken for each: `confusion[i, j]` texts of class i were answered with j."""

    topics: tuple[str, ...]
    confusion: Counts

    @classmethod
    def of(cls, topics: Sequence[str], labels: Sequence[str], answers: Sequence[str]) -> "Scores":
        """Counted from what the texts are and what was answered, text by text."""
        number = {topic: at for at, topic in enumerate(topics)}
        confusion = np.zeros((len(topics), len(topics)), dtype=np.int64)
        for label, answer in zip(labels, answers, strict=True):
            confusion[number[label], number[answer]] += 1
        return cls(tuple(topics), confusion)

    @property
    def fields(self) -> dict[str, Any]:
        """Plain data; the topics and `confusion` give the Scores back."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "topics": list(self.topics),
            "confusion": self.confusion.tolist(),
        }

    @property
    def accuracy(self) -> float:
        """Share of the texts that were answered right."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def macro_f1(self) -> float:
        """F1 of each class, the mean over classes, however many texts they have; a class nobody named counts 0."""
        right = np.diag(self.confusion).astype(float)
        sizes = self.confusion.sum(0) + self.confusion.sum(1)
        return float(np.mean(2 * right / np.maximum(sizes, 1)))


def majority(train: Corpus, test: Corpus) -> Scores:
    """Always the class that most of the training texts have."""
    ((most, _),) = Counter(train.labels).most_common(1)
    return Scores.of(test.topics, test.labels, [most] * len(test))


def tfidf_regression(train: Corpus, test: Corpus) -> Scores:
    """Logistic regression on TF-IDF, words as everywhere here: no order of words, 0.1 seconds of training.

    Raises:
        Unavailable: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise Unavailable(
            f"a logistic regression on TF-IDF was asked for; {error}; remedy: pip install scikit-learn"
        ) from None
    vectors = TfidfVectorizer(tokenizer=words, token_pattern=None, sublinear_tf=True)
    regression = LogisticRegression(C=10, max_iter=500)
    regression.fit(vectors.fit_transform(train.texts), train.labels)
    return Scores.of(test.topics, test.labels, list(regression.predict(vectors.transform(test.texts))))


def compared(name: str, scores: Scores, train: Corpus, test: Corpus) -> dict[str, Scores]:
    """A classifier's scores under its name, and those of the simpler ones that can be had here."""
    by_name = {name: scores, "always the most frequent topic": majority(train, test)}
    with suppress(Unavailable):  # scikit-learn is not everywhere
        by_name["logistic regression on TF-IDF"] = tfidf_regression(train, test)
    return by_name
