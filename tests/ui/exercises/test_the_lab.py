"""Checks accept the solutions and say in a line what is off with anything else."""

import pytest

from labkit.bench.comparison import Comparison
from labkit.core.workload import WORKLOADS
from labkit.ui.exercises import the_lab as exercises
from labkit.ui.exercises.replies import OPEN

INT4 = "kv_cache + quantize(bits=4, group_size=64) + threads(num=1)"


def test_the_solutions_are_correct(solutions, comparison: Comparison) -> None:
    solution = solutions("11_the_lab")
    assert exercises.recipe_text(solution["recipe"], expected=INT4) == "correct"
    assert exercises.nearest_to_limit(solution["nearest"](comparison), comparison) == "correct"
    assert exercises.batching_workload(solution["together"]) == "correct"


def test_no_answer_is_no_mistake(comparison: Comparison) -> None:
    assert exercises.recipe_text(None, expected=INT4) == OPEN
    assert exercises.nearest_to_limit(None, comparison) == exercises.batching_workload(None) == OPEN


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
