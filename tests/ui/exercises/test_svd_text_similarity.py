"""Checks accept the solutions and say in a line what is off with anything else."""

import numpy as np
import pytest

from labkit.ui.exercises import svd_text_similarity as exercises
from labkit.ui.exercises.replies import CORRECT, OPEN

VALUES = (8, 4, 2, 1)


def article(matrix, k):
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :k] @ np.diag(s[:k]) @ v.T[:, :k]


def transposed_in_full(matrix, k):
    """Wrong in another way: it runs for every k, with rows and columns of V confused."""
    u, s, vt = np.linalg.svd(matrix)
    return (u[:, :k] * s[:k]) @ vt.T[:k]


def coordinates(matrix, k):
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :k] * s[:k]


def test_the_solutions_are_correct(solutions) -> None:
    solution = solutions("09_svd_text_similarity")
    assert exercises.repaired(solution["decomposition"]) == CORRECT
    assert exercises.break_even_rank(solution["break_even"], terms_per_text=50) == CORRECT
    assert exercises.least_rank(solution["rank"], VALUES, share=0.95) == CORRECT


def test_no_answer_is_no_mistake() -> None:
    assert exercises.repaired(None) == exercises.least_rank(None, VALUES, share=0.95) == OPEN
    assert exercises.break_even_rank(None, terms_per_text=50) == OPEN


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (article, "k = 1 and a matrix of 2 × 3 raise ValueError"),
        (transposed_in_full, "with k = 1 the inner products are off"),
        (coordinates, "a matrix of 2 × 3 became one of (2, 1)"),
        (lambda matrix, k: matrix, "with k = 1 the inner products are off"),
    ],
)
def test_a_decomposition_that_is_none_is_told_why(answer, reply: str) -> None:
    assert exercises.repaired(answer).startswith(reply)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (50, "beside each weight the number of its column is stored"),
        (128, "rank 128 takes 512 bytes a text in fp32, compressed rows take 600"),
    ],
)
def test_a_wrong_rank_is_told_its_bytes(answer: int, reply: str) -> None:
    assert exercises.break_even_rank(answer, terms_per_text=50).startswith(reply)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (2, "rank 2 keeps 94.1% of the squared norm, 95% are wanted"),
        (4, "rank 4 keeps 100.0% of the squared norm; a smaller one keeps enough"),
        (0, "a rank is a whole number from 1 to 4 here"),
    ],
)
def test_a_rank_that_is_not_the_least_is_told_what_it_keeps(answer: int, reply: str) -> None:
    assert exercises.least_rank(answer, VALUES, share=0.95) == reply
