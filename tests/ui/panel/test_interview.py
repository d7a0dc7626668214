"""The interview in a notebook: asks, grades, keeps, and changes its language without losing the question."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.core.errors import UsageError
from labkit.core.language import VARIABLE
from labkit.interview.bank import bank
from labkit.ui import interviewing
from tests.interview.conftest import READERS

widgets = pytest.importorskip("ipywidgets")


@pytest.fixture
def interview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from labkit.ui.panel.interview import Interview

    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "en")
    monkeypatch.setattr(interviewing, "reader_here", lambda: READERS["server"])
    return Interview(seed=1)


def walk(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def found(interview: Any, kind: str, description: str) -> Any:
    (widget,) = [
        one for one in walk(interview.box) if type(one).__name__ == kind and one.description.startswith(description)
    ]
    return widget


def shown(interview: Any) -> str:
    return "".join(one.value for one in walk(interview.box) if type(one).__name__ == "HTML")


def expected(id: str) -> str:
    return interviewing.present(bank().get(id), READERS["server"]).expected


def test_a_number_is_typed_and_graded_with_its_solution(interview: Any, tmp_path: Path) -> None:
    interview.ask("least_tpot")
    assert "0.06" not in interview.question
    found(interview, "Text", "answer").value = expected("least_tpot")
    found(interview, "Button", "Submit").click()
    assert "Right." in shown(interview)
    assert "Every weight is read once" in shown(interview)
    (kept,) = json.loads((tmp_path / "interview.json").read_text())["answers"]
    assert (kept["question"], kept["score"]) == ("least_tpot", 1.0)


def test_what_is_no_number_is_told_and_not_kept(interview: Any, tmp_path: Path) -> None:
    interview.ask("least_tpot")
    found(interview, "Text", "answer").value = "<b>soon</b>"
    found(interview, "Button", "Submit").click()
    assert "&lt;b&gt;soon&lt;/b&gt;" in shown(interview)
    assert "<b>soon" not in shown(interview)
    assert not (tmp_path / "interview.json").exists()


def test_points_of_a_rubric_are_ticked(interview: Any) -> None:
    interview.ask("gil")
    found(interview, "Button", "Show the rubric").click()
    found(interview, "Checkbox", "one thread at a time").value = True
    found(interview, "Button", "Submit").click()
    assert "20.0 %" in shown(interview)
    assert "The lock lets one thread at a time" in shown(interview)


def test_another_language_keeps_the_question(interview: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interview.ask("gil")
    found(interview, "ToggleButtons", "language").value = "zh"
    assert interview.question == bank().get("gil").question.zh
    assert found(interview, "Button", "下一题")
    found(interview, "ToggleButtons", "language").value = "en"
    assert interview.question == bank().get("gil").question.en


def test_a_mock_interview_asks_five_and_sums_up(interview: Any) -> None:
    interview.mock()
    for number in range(5):
        assert interview.question
        shown_now = interview._shown
        interview.answer("1 2 3" if shown_now.points else shown_now.expected.replace("×", "x"))
        assert shown(interview).count("<tr>") == number + 2 + len(bank().topics) + 1
    assert interview.question == ""


def test_an_answer_to_nothing_is_refused(interview: Any) -> None:
    with pytest.raises(UsageError, match="no question is asked"):
        interview.answer("1 s")


def test_the_next_question_is_of_the_topic(interview: Any) -> None:
    found(interview, "Dropdown", "topic").value = "text"
    found(interview, "Button", "Next question").click()
    assert interview.question in [question.question.en for question in bank().of("text")]
