"""Checks of batching accept the solutions and say what is off with anything else."""

import pytest

from labkit.ui.exercises import batching as exercises
from labkit.ui.exercises.replies import OPEN


@pytest.fixture(scope="module")
def solution(solutions):
    return solutions("06_batching")


def fits(answer: int | None) -> str:
    return exercises.requests_that_fit(answer, budget_bytes=2**21, token_bytes=8192, block_size=16, num_tokens=80)


def test_the_solutions_are_correct(solution) -> None:
    assert exercises.idle_share(solution["idle"]) == "correct"
    assert fits(solution["fits"]) == "correct"
    assert exercises.under_way(solution["under_way"]) == "correct"


def test_no_answer_is_no_mistake() -> None:
    assert exercises.idle_share(None) == fits(None) == exercises.under_way(None) == OPEN


def test_busy_places_taken_for_idle_ones_are_told_what_the_batch_has() -> None:
    assert "steps, so it has" in exercises.idle_share(lambda tokens: sum(tokens) / (len(tokens) * max(tokens)))


def test_too_many_requests_fill_more_blocks_than_there_are() -> None:
    assert fits(4) == "the budget is 16 blocks, and 4 requests of 80 tokens fill 20 of them"


def test_requests_counted_without_their_time_are_not_under_way() -> None:
    assert "you say 40.00" in exercises.under_way(lambda trace: len(trace.requests))
