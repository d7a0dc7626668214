"""Checks accept the solutions and say in a line what is off with anything else."""

import pytest

from labkit.model.source import sizes_of
from labkit.ui.exercises import pruning_and_low_rank as exercises
from labkit.ui.exercises.replies import CORRECT, OPEN

OURS = sizes_of("pylm")
MATRIX = {"rows": 1_024, "columns": 384}


def test_the_solutions_are_correct(solutions) -> None:
    solution = solutions("04_pruning_and_low_rank")
    assert exercises.largest_rank(solution["rank"], **MATRIX) == CORRECT
    assert exercises.least_sparsity(solution["sparsity"], value_bytes=2) == CORRECT
    assert exercises.smaller_model(solution["recipe"], OURS) == CORRECT


def test_no_answer_is_no_mistake() -> None:
    assert exercises.largest_rank(None, **MATRIX) == exercises.least_sparsity(None, value_bytes=2) == OPEN
    assert exercises.smaller_model(None, OURS) == OPEN


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (280, "two factors of rank 280 hold 394,240 numbers, the matrix 393,216"),
        (100, "two factors of rank 100 hold 140,800 numbers, the matrix 393,216; a larger rank saves too"),
    ],
)
def test_a_wrong_rank_is_told_what_it_holds(answer: int, reply: str) -> None:
    assert exercises.largest_rank(answer, **MATRIX) == reply


def test_a_square_that_splits_evenly_saves_nothing_at_its_break_even_rank() -> None:
    assert exercises.largest_rank(50, rows=100, columns=100).startswith("two factors of rank 50 hold 10,000 numbers")
    assert exercises.largest_rank(49, rows=100, columns=100) == CORRECT


def test_too_few_zeros_are_told_what_their_index_takes() -> None:
    reply = "at 50% zeros a weight takes 3.00 bytes, with its index; in the matrix 2"
    assert exercises.least_sparsity(0.5, value_bytes=2) == reply


@pytest.mark.parametrize(
    ("recipe", "reply"),
    [
        (
            "precision + prune(sparsity=0.5, pattern='unstructured')",
            "it leaves 100% of the blocks' weights to read; z",
        ),
        ("precision + prune(sparsity=0.5, pattern='2:4')", "it leaves 100% of the blocks' weights to read; zeros"),
        ("precision + prune(sparsity=0.25, pattern='layer')", "it leaves 75% of the blocks' weights to read"),
        ("prune(sparsity=0.5)", "16 bits are asked for"),
        ("prune(sparsity=2)", "prune"),
    ],
)
def test_a_recipe_that_leaves_too_much_is_told_how_much(recipe: str, reply: str) -> None:
    assert exercises.smaller_model(recipe, OURS).startswith(reply)
