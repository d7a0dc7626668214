"""Checks of placement accept the solutions and say what is off with anything else."""

import pytest

from labkit.ui.exercises import cpu_and_gpu as exercises
from labkit.ui.exercises.replies import OPEN

LAYER = 404_750_336


@pytest.fixture(scope="module")
def solution(solutions):
    return solutions("05_cpu_and_gpu")


def layers(answer: int | None, *, free_bytes: float = 10e9) -> str:
    return exercises.layers_that_stay(answer, num_layers=32, layer_bytes=LAYER, free_bytes=free_bytes)


def test_the_solutions_are_correct(solution) -> None:
    assert layers(solution["kept"]) == "correct"
    assert exercises.tokens_that_hide_a_fetch(solution["hidden"], card="A100") == "correct"
    assert exercises.step_formula(solution["formula"]) == "correct"


def test_no_answer_is_no_mistake() -> None:
    assert layers(None) == exercises.tokens_that_hide_a_fetch(None, card="A100") == exercises.step_formula(None) == OPEN


def test_layers_without_room_for_the_buffers_are_too_many() -> None:
    assert "the card has less" in layers(24)
    assert "room for more" in layers(20)


def test_a_model_that_fits_leaves_its_last_two_layers_to_the_buffers() -> None:
    assert layers(30, free_bytes=14e9) == "correct"


def test_bytes_taken_for_bits_are_told_by_how_much_they_are_off() -> None:
    assert "2.00 times as long" in exercises.tokens_that_hide_a_fetch(2 * 312e12 / 32e9, card="A100")


@pytest.mark.parametrize(
    "formula",
    [
        lambda kept, layer_s, fetch_s: 32 * layer_s + (32 - kept) * fetch_s,  # nothing overlaps
        lambda kept, layer_s, fetch_s: (32 - kept) * fetch_s,  # the link is not always the bound
    ],
)
def test_a_formula_without_overlap_or_without_the_gpu_is_told_what_a_step_takes(formula) -> None:
    assert "which of the two is waited for?" in exercises.step_formula(formula)
