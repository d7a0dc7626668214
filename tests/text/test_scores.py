"""Accuracy, macro-F1 and confusion, against scikit-learn's and by hand; the two simpler classifiers."""

import pytest

from labkit.text.corpus import Corpus, Document
from labkit.text.scores import Scores, majority, tfidf_regression

LABELS, ANSWERS = ["a", "a", "a", "b", "b", "c"], ["a", "a", "b", "b", "a", "a"]


def test_scores_by_hand() -> None:
    scores = Scores.of(("a", "b", "c"), LABELS, ANSWERS)
    assert scores.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert scores.accuracy == pytest.approx(3 / 6)
    assert scores.macro_f1 == pytest.approx((2 * 2 / (3 + 4) + 2 * 1 / (2 + 2) + 0) / 3)


def test_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores = Scores.of(("a", "b", "c"), LABELS, ANSWERS)
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(LABELS, ANSWERS, average="macro"))
    assert scores.confusion.tolist() == metrics.confusion_matrix(LABELS, ANSWERS).tolist()


def corpus(*pairs: tuple[str, str]) -> Corpus:
    return Corpus.of([Document(text, label, "m", str(at)) for at, (text, label) in enumerate(pairs)])


TRAIN = corpus(("ship and sea", "water"), ("sea and sail", "water"), ("bread and salt", "kitchen"))


def test_the_majority_is_that_of_the_training_texts() -> None:
    test = corpus(("butter", "kitchen"), ("pan", "kitchen"), ("sea", "water"))
    assert majority(TRAIN, test).accuracy == pytest.approx(1 / 3)


def test_regression_goes_by_words() -> None:
    pytest.importorskip("sklearn")
    test = corpus(("a ship at sea", "water"), ("bread", "kitchen"))
    assert tfidf_regression(TRAIN, test).accuracy == 1
