"""A number is judged within its tolerance, and a wrong one gets its hint."""

import pytest

from labkit.ui.exercises.replies import CORRECT, OPEN, number


@pytest.mark.parametrize(("answer", "reply"), [(None, OPEN), (100.5, CORRECT), (102, "2 too many")])
def test_a_number_is_open_correct_or_hinted_at(answer: float | None, reply: str) -> None:
    assert number(answer, 100, lambda given: f"{given - 100:.0f} too many") == reply
