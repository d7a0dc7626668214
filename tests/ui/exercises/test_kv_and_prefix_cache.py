"""Checks accept the solutions and say in a line what is off with anything else."""

import pytest

from labkit.core.workload import workload
from labkit.model.source import sizes_of
from labkit.ui.exercises import kv_and_prefix_cache as exercises
from labkit.ui.exercises.replies import CORRECT, OPEN

GQA, MHA, OURS = sizes_of("llama-1b"), sizes_of("llama-7b"), sizes_of("pylm")
MEMORY = {"free_bytes": 10 * 2**30, "tokens": 4_096}


def test_the_solutions_are_correct(solutions) -> None:
    solution = solutions("02_kv_and_prefix_cache")
    assert exercises.kv_token_bytes(solution["token_bytes"], GQA) == CORRECT
    assert exercises.requests_that_fit(solution["num_requests"], MHA, **MEMORY) == CORRECT
    assert exercises.shared_workload(solution["shared_workload"], OURS) == CORRECT


def test_no_answer_is_no_mistake() -> None:
    assert exercises.kv_token_bytes(None, GQA) == exercises.requests_that_fit(None, MHA, **MEMORY) == OPEN
    assert exercises.shared_workload(None, OURS) == OPEN


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (16_384, "keys and values are both stored"),
        (131_072, "4 query heads share one head"),
        (2_048, "every layer stores its own"),
        (65_536, "16 bits are 2 bytes"),
        (7, "2 · layers"),
    ],
)
def test_a_wrong_size_is_told_what_was_forgotten(answer: int, reply: str) -> None:
    assert exercises.kv_token_bytes(answer, GQA).startswith(reply)


def test_too_many_requests_are_told_what_they_take() -> None:
    assert exercises.requests_that_fit(6, MHA, **MEMORY) == "6 of them take 12.0 GiB; 10.0 GiB are free"


@pytest.mark.parametrize(
    ("changes", "reply"),
    [
        ({"prompt_tokens": 64, "shared_prefix_tokens": 60}, "of 60 shared tokens 0 lie in whole blocks of 64"),
        ({"prompt_tokens": 544, "shared_prefix_tokens": 256}, "of 256 shared tokens 256 lie in whole blocks"),
        ({"prompt_tokens": 544, "shared_prefix_tokens": 512, "cache_state": "cold"}, "a cold cache is emptied"),
    ],
)
def test_a_workload_that_shares_too_little_is_told_how_much_it_does(changes, reply: str) -> None:
    assert exercises.shared_workload(workload("chat", **changes), OURS).startswith(reply)
