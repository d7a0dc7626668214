"""Checks accept the solutions and say in a line what is off with anything else."""

import pytest

from labkit.ui.exercises import quantization as exercises
from labkit.ui.exercises.replies import CORRECT, OPEN

SQUARE = {"rows": 4_096, "columns": 4_096, "group_size": 128}
MIB = 2**20


@pytest.fixture
def measured(make):
    return [
        make("precision + kv_cache", weights_bytes=30 * MIB, perplexity_ratio=1.0005),
        make("quantize + kv_cache", weights_bytes=16 * MIB, perplexity_ratio=1.001),
        make("quantize(bits=4) + kv_cache", weights_bytes=10 * MIB, perplexity_ratio=1.05),
    ]


def test_the_solutions_are_correct(solutions, measured) -> None:
    solution = solutions("03_quantization")
    assert exercises.matrix_bytes(solution["num_bytes"], **SQUARE) == CORRECT
    assert exercises.rounding(solution["rounded"]) == CORRECT
    assert exercises.smallest_good(solution["smallest"](measured), measured, most_ratio=1.02) == CORRECT


def test_no_answer_is_no_mistake(measured) -> None:
    assert exercises.matrix_bytes(None, **SQUARE) == exercises.rounding(None) == OPEN
    assert exercises.smallest_good(None, measured, most_ratio=1.02) == OPEN


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (4_096 * 4_096 / 2, "those are the codes alone"),
        (4_096 * 4_096 * (1 / 2 + 2 / 128), "a group has a scale and an offset"),
        (4_096 * 4_096, "half a byte a weight, and 131,072 groups"),
    ],
)
def test_wrong_bytes_are_told_what_was_forgotten(answer: float, reply: str) -> None:
    assert exercises.matrix_bytes(answer, **SQUARE).startswith(reply)


@pytest.mark.parametrize(
    ("rounded", "reply"),
    [
        (lambda weights: ([0] * 3, 1.0), "8 whole numbers are wanted"),
        (lambda weights: ([weight / 0.01 for weight in weights], 0.01), "8 whole numbers are wanted"),
        (lambda weights: ([round(weight) for weight in weights], 1.0), "the largest weight should become 127"),
        (lambda weights: ([int(weight / 0.01) for weight in weights], 0.01), "rounded to the nearest"),
    ],
)
def test_wrong_rounding_is_told_what_is_off(rounded, reply: str) -> None:
    assert exercises.rounding(rounded).startswith(reply)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("precision + kv_cache", "it takes 30.0 MiB, another one that is good enough 16.0 MiB"),
        ("quantize(bits=4) + kv_cache", "its perplexity ratio is 1.050"),
        ("quantize(bits=2)", "no recipe 'quantize(bits=2)' was measured"),
    ],
)
def test_a_recipe_that_is_too_large_or_too_lossy_is_told_so(measured, answer: str, reply: str) -> None:
    assert exercises.smallest_good(answer, measured, most_ratio=1.02).startswith(reply)
