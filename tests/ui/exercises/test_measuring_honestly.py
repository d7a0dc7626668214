"""Checks accept the solutions and say in a line what is off with anything else."""

import pytest

from labkit.ui.exercises import measuring_honestly as exercises
from labkit.ui.exercises.replies import OPEN


@pytest.fixture(scope="module")
def solution(solutions):
    return solutions("00_measuring_honestly")


def test_the_solutions_are_correct(solution) -> None:
    assert exercises.samples_to_p99(solution["missing"], num_samples=504) == "correct"
    assert exercises.fair_schedule(solution["schedule"]) == "correct"
    assert exercises.honest_latencies(solution["latencies"]) == "correct"


def test_no_answer_is_no_mistake() -> None:
    assert exercises.samples_to_p99(None, num_samples=504) == OPEN
    assert exercises.fair_schedule(None) == exercises.honest_latencies(None) == OPEN


def test_a_wrong_number_of_samples_is_told_what_it_adds_up_to() -> None:
    assert exercises.samples_to_p99(100, num_samples=504).startswith("504 and 100 are 604")


@pytest.mark.parametrize(
    ("schedule", "reply"),
    [
        (lambda _: "A" * 8 + "B" * 8, "each holds A and B once; yours begins with AAAAAA"),
        (lambda _: "AB" * 7, "a session has 8 blocks"),
        (lambda _: "AB" * 8, "under beat it calls equal recipes different in 100% of sessions"),
    ],
)
def test_a_schedule_that_can_be_fooled_is_told_by_what(schedule, reply: str) -> None:
    assert reply in exercises.fair_schedule(schedule)


def test_latency_from_the_moment_of_sending_omits_the_queue() -> None:
    reply = exercises.honest_latencies(lambda trace: [one.output_s[-1] - one.sent_s for one in trace.requests])
    assert "users waited" in reply


def test_the_toy_machine_fools_a_sequential_comparison_and_not_randomized_blocks(solution) -> None:
    assert exercises.false_alarms(lambda _: "A" * 8 + "B" * 8, drift=0.1) > 0.5
    assert exercises.false_alarms(solution["schedule"], drift=0.1) <= 0.03
