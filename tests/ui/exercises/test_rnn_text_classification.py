"""Checks accept the solutions and say in a line what is off with anything else."""

import pytest

from labkit.ui.exercises import rnn_text_classification as exercises
from labkit.ui.exercises.replies import CORRECT, OPEN

GRU = {"cell": "gru", "vocabulary": 20_000, "embedding": 128, "units": 96, "classes": 10}
TEXTS = {"vocabulary": 30_000, "words": 60}


def test_the_solutions_are_correct(solutions) -> None:
    solution = solutions("10_rnn_text_classification")
    assert exercises.num_parameters(solution["parameters"], **GRU) == CORRECT
    assert exercises.texts_that_repay_a_fold(solution["num_texts"], **TEXTS) == CORRECT
    assert exercises.folded(solution["fold"]) == CORRECT


def test_no_answer_is_no_mistake() -> None:
    assert exercises.num_parameters(None, **GRU) == exercises.texts_that_repay_a_fold(None, **TEXTS) == OPEN
    assert exercises.folded(None) == OPEN


def test_the_articles_model_has_648_906() -> None:
    sizes = {"vocabulary": 10_000, "embedding": 64, "units": 64, "classes": 10}
    assert exercises.num_parameters(640_000 + 8_256 + 650, cell="simple", **sizes) == CORRECT


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (66_058, "the embedding holds a row"),
        (2_560_000 + 96 * 225 + 970, "a gru cell has 3 gates"),
        (2_625_088, "the dense layer"),
        (2_625_770, "each gate has a bias; in Keras those of a GRU have two"),
        (7, "vocabulary · embedding + gates"),
    ],
)
def test_a_wrong_count_is_told_what_was_forgotten(answer: int, reply: str) -> None:
    assert exercises.num_parameters(answer, **GRU).startswith(reply)


@pytest.mark.parametrize(
    ("answer", "reply"), [(30_000, "a text saves a product for each"), (100, "100 texts save 6,000 products; 30,000")]
)
def test_a_wrong_number_of_texts_is_told_what_they_save(answer: float, reply: str) -> None:
    assert exercises.texts_that_repay_a_fold(answer, **TEXTS).startswith(reply)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (lambda embedding, kernel, bias: embedding, "50 words and 3 gates of 16 units make a table of (50, 48)"),
        (lambda embedding, kernel, bias: embedding @ kernel, "the bias is added to every word's row"),
        (lambda embedding, kernel, bias: embedding @ kernel + 2 * bias, "rows differ from embedding · kernel + bias"),
    ],
)
def test_a_wrong_fold_is_told_what_is_off(answer, reply: str) -> None:
    assert exercises.folded(answer).startswith(reply)
