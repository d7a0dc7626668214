"""Exercises of lesson 12."""

from collections.abc import Mapping
from typing import Any

from labkit.core.errors import LabkitError
from labkit.interview.bank import Numeric, bank, question_of
from labkit.interview.grading import ask
from labkit.interview.reader import Reader
from labkit.ui.exercises.replies import CORRECT, OPEN, number
from labkit.ui.interviewing import present, verdict


def answered(answer: str | None, id: str, reader: Reader) -> str:
    """A number with its unit, for a question of the bank with the reader's own figures."""
    if answer is None:
        return OPEN
    try:
        grade = present(bank().get(id), reader).graded(answer)
    except LabkitError as error:
        return str(error)
    return CORRECT if grade.is_right else verdict(grade)


def in_flight(answer: float | None, *, rate_per_s: float, ttft_s: float, tpot_s: float, tokens: int) -> str:
    """How many requests a server holds on average when they arrive at a rate and each takes so long."""
    e2e_s = ttft_s + (tokens - 1) * tpot_s
    return number(
        answer, rate_per_s * e2e_s, lambda _: f"a request takes {e2e_s:g} s; Little's law says how many are inside"
    )


def own_question(answer: Mapping[str, Any] | None, reader: Reader) -> str:
    """A numeric question of the reader's own, as an entry of the bank's files."""
    if answer is None:
        return OPEN
    try:
        question = question_of("own", answer)
        if not isinstance(question, Numeric):
            return "that is an open question; a numeric one names a formula"
        asked = ask(question, reader)
    except (ValueError, TypeError, KeyError, AttributeError, LabkitError) as error:
        return " ".join(str(error).split())
    return CORRECT if question.needed and asked.expected > 0 else "it should be about a figure of your own"
