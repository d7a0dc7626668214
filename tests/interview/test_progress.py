"""Progress survives, is whole or not there, and decides what is asked next."""

import json
import math
from pathlib import Path

import pytest

from labkit.core.errors import StoreError
from labkit.interview.bank import Numeric, bank
from labkit.interview.progress import MOCK_SIZE, Progress, mock, order


def test_answers_are_kept_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "interview.json"
    kept = Progress.load(path).adding(bank().get("gil"), score=0.4, took_s=61.5)
    kept = kept.adding(bank().get("kv_token"), score=0.0, took_s=3.0).adding(bank().get("gil"), score=1.0, took_s=9.0)
    kept.save(path)
    assert Progress.load(path) == kept
    assert kept.by_topic() == {"parallel": (1, 1.0), "cache": (1, 0.0)}
    assert [found.name for found in path.parent.iterdir()] == ["interview.json"]


ANSWER = {"question": "gil", "topic": "parallel", "score": 1.0, "took_s": 3.0, "at_utc": "2030-01-02T03:04:05+00:00"}
WRONG = ({"score": "a"}, {"score": 2}, {"score": math.nan}, {"took_s": None}, {"took_s": 1e400}, {"question": [1]})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"schema": 99, "answers": []}', '{"schema": 1, "answers": [{"who": 1}]}', "[" * 100_000,
        *(json.dumps({"schema": 1, "answers": [{**ANSWER, **wrong}]}) for wrong in WRONG),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "interview.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"cannot be read: .*; move the file away to begin anew") as refused:
        Progress.load(path)
    assert "\n" not in str(refused.value)
    assert path.read_text() == text


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written: .*set LABKIT_HOME"):
        Progress().save(tmp_path / "file" / "interview.json")


def test_unanswered_questions_come_first_then_the_worst() -> None:
    good, bad, new = (bank().get(id) for id in ("gil", "tp_or_pp", "all_reduce"))
    progress = Progress().adding(good, score=1.0, took_s=1).adding(bad, score=0.2, took_s=1)
    assert order((good, bad, new), progress, seed=0) == (new, bad, good)


def test_the_order_follows_the_seed() -> None:
    questions = bank().questions
    assert order(questions, Progress(), seed=1) == order(questions, Progress(), seed=1)
    assert order(questions, Progress(), seed=1) != order(questions, Progress(), seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_a_mock_interview_is_five_questions_of_five_topics_two_of_them_numeric(seed: int) -> None:
    chosen = mock(bank().questions, Progress(), seed=seed)
    assert len(chosen) == len(set(chosen_ids := [one.id for one in chosen])) == MOCK_SIZE, chosen_ids
    assert len({one.topic for one in chosen}) == MOCK_SIZE
    assert sum(isinstance(one, Numeric) for one in chosen) == 2
    assert [one.level for one in chosen] == sorted(one.level for one in chosen)


def test_a_mock_interview_of_few_questions_takes_them_all() -> None:
    numeric = tuple(one for one in bank().of("parallel") if isinstance(one, Numeric))
    assert len(mock(numeric, Progress(), seed=0)) == 2
    words = tuple(one for one in bank().of("decoding") if not isinstance(one, Numeric))
    assert set(mock(words, Progress(), seed=0)) == set(words)
