"""Checks accept the solutions and say in a line what is off with anything else."""

import runpy
from pathlib import Path

import pytest

from labkit.bench.comparison import Comparison
from labkit.core.workload import WORKLOADS
from labkit.ui import exercises

SOLUTIONS = Path(__file__).parents[2] / "notebooks" / "solutions"
INT4 = "kv_cache + quantize(bits=4, group_size=64) + threads(num=1)"


@pytest.fixture(scope="module")
def measuring() -> dict[str, object]:
    return runpy.run_path(str(SOLUTIONS / "00_measuring_honestly.py"))


@pytest.fixture(scope="module")
def tour() -> dict[str, object]:
    return runpy.run_path(str(SOLUTIONS / "11_the_lab.py"))


def test_solutions_of_measuring_honestly_are_correct(measuring) -> None:
    assert exercises.samples_to_p99(measuring["missing"], num_samples=504) == "correct"
    assert exercises.fair_schedule(measuring["schedule"]) == "correct"
    assert exercises.honest_latencies(measuring["latencies"]) == "correct"


def test_solutions_of_the_lab_are_correct(tour, comparison: Comparison) -> None:
    assert exercises.recipe_text(tour["recipe"], expected=INT4) == "correct"
    assert exercises.nearest_to_limit(tour["nearest"](comparison), comparison) == "correct"
    assert exercises.batching_workload(tour["together"]) == "correct"


def test_no_answer_is_no_mistake(comparison: Comparison) -> None:
    assert {
        exercises.samples_to_p99(None, num_samples=504),
        exercises.fair_schedule(None),
        exercises.honest_latencies(None),
        exercises.recipe_text(None, expected=INT4),
        exercises.nearest_to_limit(None, comparison),
        exercises.batching_workload(None),
    } == {exercises.OPEN}


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


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("kv_cache", "that means kv_cache"),
        ("", "that means the baseline"),
        ("kv_cash", "unknown optimization 'kv_cash'"),
    ],
)
def test_a_wrong_recipe_is_told_what_it_means(answer: str, reply: str) -> None:
    assert exercises.recipe_text(answer, expected=INT4).startswith(reply)


def test_a_recipe_farther_from_its_limit_is_not_the_answer(comparison: Comparison) -> None:
    table = comparison.frame().dropna(subset=["limit_share"])
    farthest = table.loc[table["limit_share"].idxmin(), "recipe"]
    assert "another one more" in exercises.nearest_to_limit(farthest, comparison)
    assert "no recipe 'nothing'" in exercises.nearest_to_limit("nothing", comparison)


def test_a_load_that_comes_one_by_one_has_nothing_to_batch() -> None:
    assert exercises.batching_workload(WORKLOADS["chat"]) == "one request makes no batch"
    assert exercises.batching_workload(WORKLOADS["server"]).startswith("server does not send")


def test_the_toy_machine_fools_a_sequential_comparison_and_not_randomized_blocks(measuring) -> None:
    assert exercises.false_alarms(lambda _: "A" * 8 + "B" * 8, drift=0.1) > 0.5
    assert exercises.false_alarms(measuring["schedule"], drift=0.1) <= 0.03
