"""Checks of splitting accept the solutions and say what is off with anything else."""

import pytest

from labkit.model.source import sizes_of
from labkit.ui.exercises import splitting_a_model as exercises
from labkit.ui.exercises.replies import OPEN

SIZES = sizes_of("llama-7b")


@pytest.fixture(scope="module")
def solution(solutions):
    return solutions("08_splitting_a_model")


def test_the_solutions_are_correct(solution) -> None:
    assert exercises.sums_of_a_token(solution["sent"], SIZES, num_ranks=4) == "correct"
    assert exercises.microbatches_for(solution["parts"], num_ranks=4, most_idle=0.1) == "correct"
    assert exercises.two_ranks_pay(solution["pays"], SIZES) == "correct"


def test_no_answer_is_no_mistake() -> None:
    assert exercises.sums_of_a_token(None, SIZES, num_ranks=4) == exercises.two_ranks_pay(None, SIZES) == OPEN
    assert exercises.microbatches_for(None, num_ranks=4, most_idle=0.1) == OPEN


def test_a_sum_that_is_sent_once_is_told_how_often_a_ring_sends_it() -> None:
    reply = exercises.sums_of_a_token(64 * 8192, SIZES, num_ranks=4)
    assert reply.startswith("64 sums of 8,192 bytes; you say 1.00 times")


def test_too_few_microbatches_leave_a_bubble_and_too_many_are_not_the_fewest() -> None:
    assert "leave 27.3% of the time idle" in exercises.microbatches_for(8, num_ranks=4, most_idle=0.1)
    assert exercises.microbatches_for(28, num_ranks=4, most_idle=0.1) == "27 would do, too"
    assert "75.0%" in exercises.microbatches_for(0, num_ranks=4, most_idle=0.1)


@pytest.mark.parametrize("pays", [lambda latency_s: True, lambda latency_s: False])
def test_a_second_card_pays_neither_always_nor_never(pays) -> None:
    assert "latencies are added" in exercises.two_ranks_pay(pays, SIZES)
