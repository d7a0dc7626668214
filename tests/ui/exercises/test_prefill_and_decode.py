"""Checks accept the solutions and say in a line what is off with anything else."""

import pytest

from labkit.ui.exercises import prefill_and_decode as exercises
from labkit.ui.exercises.replies import CORRECT, OPEN

SEVEN_B = {"num_parameters": 7e9, "dtype": "bf16", "bytes_per_s": 100e9}
A100 = {"gpu": "A100", "dtype": "bf16"}


def test_the_solutions_are_correct(solutions) -> None:
    solution = solutions("01_prefill_and_decode")
    assert exercises.least_tpot_ms(solution["tpot_ms"], **SEVEN_B) == CORRECT
    assert exercises.ridge_tokens(solution["tokens"], **A100) == CORRECT
    assert exercises.ttft_and_tpot(solution["latencies"]) == CORRECT


def test_no_answer_is_no_mistake() -> None:
    assert exercises.least_tpot_ms(None, **SEVEN_B) == exercises.ridge_tokens(None, **A100) == OPEN
    assert exercises.ttft_and_tpot(None) == OPEN


@pytest.mark.parametrize(
    ("answer", "reply"), [(0.14, "those are seconds"), (70, "a weight in bf16 has 2 bytes"), (1, "every weight")]
)
def test_a_wrong_tpot_is_told_what_was_forgotten(answer: float, reply: str) -> None:
    assert exercises.least_tpot_ms(answer, **SEVEN_B).startswith(reply)


@pytest.mark.parametrize(("answer", "reply"), [(306, "a weight and a token make two FLOPs"), (20, "the ridge lies at")])
def test_a_wrong_ridge_is_told_where_it_lies(answer: float, reply: str) -> None:
    assert exercises.ridge_tokens(answer, **A100).startswith(reply)


def test_latencies_of_another_start_or_count_are_told_so() -> None:
    assert "meant to be sent at 1.0 s" in exercises.ttft_and_tpot(lambda log: (log.output_s[0] - log.sent_s, 0.15))
    assert "four gaps" in exercises.ttft_and_tpot(lambda log: (log.output_s[0] - log.arrival_s, 0.12))
