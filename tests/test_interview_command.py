"""`labkit interview` without a terminal: lists, answers from stdin, JSON out, wrong input in one line."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from labkit import cli
from labkit.core.language import VARIABLE
from labkit.interview.bank import bank
from labkit.interview.progress import MOCK_SIZE
from labkit.ui import interviewing
from tests.interview.conftest import READERS


@pytest.fixture(autouse=True)
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "en")
    monkeypatch.setattr(interviewing, "reader_here", lambda: READERS["laptop"])


def answers(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def result(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_all_questions_are_listed_as_json_with_the_readers_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["interview", "--list", "--json"]) == 0
    listed = result(capsys)
    assert [entry["id"] for entry in listed["questions"]] == [question.id for question in bank().questions]
    assert all(entry["question"] and "{" not in entry["question"] for entry in listed["questions"])
    assert list(listed["topics"]) == list(bank().topics)


def test_topics_and_questions_are_listed_as_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["interview", "text", "--list", "--lang", "zh"]) == 0
    out = capsys.readouterr().out
    assert "SVD 相似度与 RNN 分类" in out
    assert "vector_search" in out
    assert "least_tpot" not in out


def test_answers_come_from_stdin_and_go_to_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, "4 KiB")
    assert cli.main(["interview", "kv_token", "--json"]) == 0
    (answer,) = result(capsys)["answers"]
    assert (answer["id"], answer["is_right"], answer["expected"]) == ("kv_token", True, "4.00 KiB")


def test_a_mock_interview_asks_five(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers(monkeypatch, *[""] * 20)
    assert cli.main(["interview", "--mock", "--seed", "1", "--json"]) == 0
    told = result(capsys)
    assert len(told["answers"]) == told["summary"]["num_answered"] == MOCK_SIZE
    assert told["summary"]["score"] == 0


def test_a_topic_is_asked_until_the_number_or_the_input_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, *[""] * 6)
    assert cli.main(["interview", "decoding", "--num", "2"]) == 0
    assert "[2/2]" in capsys.readouterr().out
    answers(monkeypatch)
    assert cli.main(["interview", "decoding"]) == 0
    assert "0 of 0 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["kv_token"], "answer 'many' cannot be read"),
        (["cooking"], "unknown question 'cooking'"),
        (["kv_token", "--mock"], "a mock interview on the question 'kv_token'"),
        (["--lang", "fr"], "unknown language 'fr'; allowed: en, zh"),
        (["--num", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, "many")
    assert cli.main(["interview", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_language_of_the_environment_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "klingon")
    assert cli.main(["interview", "--list"]) == 2
    assert "set LABKIT_LANG or give --lang" in capsys.readouterr().err
    assert cli.main(["interview", "--list", "--lang", "zh"]) == 0
