"""Checks of scaling accept the solutions and say what is off with anything else."""

import pytest

from labkit.ui.exercises import threads_and_processes as exercises
from labkit.ui.exercises.replies import OPEN

RATES = {1: 100, 4: 250}


@pytest.fixture(scope="module")
def solution(solutions):
    return solutions("07_threads_and_processes")


def test_the_solutions_are_correct(solution) -> None:
    assert exercises.serial_part(solution["serial"], rates=RATES) == "correct"
    assert exercises.lock_share(solution["share"], threads_over_processes=0.8) == "correct"
    assert exercises.peak(solution["peak"]) == "correct"


def test_no_answer_is_no_mistake() -> None:
    assert exercises.serial_part(None, rates=RATES) == exercises.peak(None) == OPEN
    assert exercises.lock_share(None, threads_over_processes=0.8) == OPEN


def test_a_wrong_serial_part_is_told_what_it_would_mean() -> None:
    assert "would do 1.60 times what one does; they do 2.50" in exercises.serial_part(0.5, rates=RATES)


def test_a_wrong_share_of_the_lock_is_told_what_it_would_leave() -> None:
    assert "= 0.96 of two processes, and they have 0.80" in exercises.lock_share(0.2, threads_over_processes=0.8)


def test_the_peak_is_where_the_slope_ends_and_not_where_cores_are_half_as_useful() -> None:
    assert "where does the slope" in exercises.peak(lambda serial, crosstalk: 1 + 1 / max(serial, 0.01))
