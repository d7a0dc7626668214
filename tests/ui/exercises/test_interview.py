"""Checks of lesson 12 accept the solutions and say in a line what is off with anything else."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from labkit.interview.reader import Reader
from labkit.ui.exercises import interview as exercises
from tests.interview.conftest import LAPTOP, READERS

SOLUTION = Path(__file__).parents[3] / "notebooks" / "solutions" / "12_interview.py"
LOAD = {"rate_per_s": 12, "ttft_s": 0.4, "tpot_s": 0.02, "tokens": 100}


@pytest.fixture(scope="module")
def solution() -> dict[str, Any]:
    return runpy.run_path(str(SOLUTION))


@pytest.mark.parametrize("name", READERS)
def test_solutions_are_correct_for_every_reader(solution: dict[str, Any], name: str) -> None:
    reader = READERS[name]
    assert exercises.answered(solution["token"](reader), "kv_token", reader) == "correct"
    assert exercises.in_flight(solution["inside"], **LOAD) == "correct"
    assert exercises.own_question(solution["mine"], reader) == "correct"


def test_no_answer_is_no_mistake() -> None:
    reader = READERS["laptop"]
    replies = {exercises.answered(None, "kv_token", reader), exercises.in_flight(None, **LOAD)}
    assert {*replies, exercises.own_question(None, reader)} == {"not answered yet"}


def test_a_number_that_is_off_or_without_a_unit_is_told_so() -> None:
    reader = READERS["laptop"]
    assert "bits or bytes" in exercises.answered("32 KiB", "kv_token", reader)
    assert "a number with a unit" in exercises.answered("4096", "kv_token", reader)
    assert "Little's law" in exercises.in_flight(12, **LOAD)


@pytest.mark.parametrize(
    ("changes", "reply"),
    [
        ({"formula": "no_formula"}, "has none of that name"),
        ({"level": 9}, "level is 9"),
        ({"question": {"en": "Why?"}}, "a text holds `en` and `zh`"),
        ({"given": {"serial_share": 0.3, "shrink": 2}}, "given and not used: shrink"),
    ],
)
def test_a_question_that_breaks_the_schema_is_told_how(
    solution: dict[str, Any], changes: dict[str, Any], reply: str
) -> None:
    assert reply in exercises.own_question({**solution["mine"], **changes}, READERS["laptop"])


def test_an_open_question_or_one_without_the_readers_figures_does_not_do(solution: dict[str, Any]) -> None:
    text = {"en": "Why?", "zh": "为什么？"}
    words = {"id": "why", "level": 1, "question": text, "rubric": [text] * 3, "answer": text}
    assert "names a formula" in exercises.own_question(words, READERS["laptop"])
    told = {"en": "{serial_share} of {num_cores}", "zh": "{num_cores} 的 {serial_share}"}
    alone = {**solution["mine"], "given": {"serial_share": 0.5, "num_cores": 4}, "question": told}
    assert exercises.own_question(alone, READERS["laptop"]) == "it should be about a figure of your own"
    needy = {**solution["mine"], "formula": "token_flops", "given": {}, "question": {"en": "How?", "zh": "多少？"}}
    needy["solution"] = {"en": "{answer}", "zh": "答案 {answer}"}
    assert "asks about a Run of your own" in exercises.own_question(needy, Reader.of(LAPTOP))
