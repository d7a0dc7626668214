"""The bank that ships keeps its schema, and a bank that does not is refused in one line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from labkit.core.errors import LabkitError, UsageError
from labkit.core.language import Text, is_chinese
from labkit.interview.bank import Bank, Numeric, Open, bank, read_bank
from labkit.interview.formulas import FORMULAS
from labkit.interview.reader import Reader
from tests.interview.conftest import GIB, GPU, LARGE, make_run

NUMERIC: dict[str, Any] = {
    "id": "cores_here",
    "level": 1,
    "question": {"en": "With {num_cores} cores and {serial_share}?", "zh": "有 {num_cores} 个核和 {serial_share}？"},
    "formula": "amdahl_factor",
    "given": {"serial_share": 0.5},
    "tolerance": 0.02,
    "solution": {"en": "It is {answer}.", "zh": "答案是 {answer}。"},
}
POINT = {"en": "a point", "zh": "要点"}
OPEN: dict[str, Any] = {
    "id": "why_open",
    "level": 2,
    "question": {"en": "Why?", "zh": "为什么？"},
    "rubric": [POINT] * 3,
    "answer": {"en": "Because.", "zh": "因为。"},
}


def written(folder: Path, *questions: object, topic: object = POINT) -> Path:
    (folder / "01_example.json").write_text(json.dumps({"topic": topic, "questions": questions}))
    return folder


def texts(found: Bank) -> list[Text]:
    told = [*found.topics.values(), *(question.question for question in found.questions)]
    for question in found.questions:
        told += [question.solution] if isinstance(question, Numeric) else [question.answer, *question.rubric]
    return told


def test_there_are_at_least_60_questions_and_20_of_them_are_numeric() -> None:
    assert len(bank().questions) >= 60
    assert sum(isinstance(question, Numeric) for question in bank().questions) >= 20


def test_every_text_stands_in_both_languages() -> None:
    for text in texts(bank()):
        assert is_chinese(text.zh), text.zh
        assert not is_chinese(text.en), text.en


def test_model_answers_are_of_interview_length() -> None:
    for question in bank().questions:
        if isinstance(question, Open):
            assert 80 <= len(question.answer.en.split()) <= 200, question.id
            assert 150 <= len(question.answer.zh) <= 450, question.id


def test_the_four_questions_of_the_article_and_every_topic_are_there() -> None:
    ids = {question.id for question in bank().questions}
    assert {"optimize_inference", "optimize_throughput", "svd_similarity", "rnn_classifier"} <= ids
    assert all(len(bank().of(topic)) >= 5 for topic in bank().topics)


def test_every_formula_that_is_no_step_of_another_is_asked_for() -> None:
    told = "".join(text.en for text in texts(bank()))
    used = {question.formula for question in bank().questions if isinstance(question, Numeric)}
    assert [name for name in FORMULAS if name not in used and f"{{{name}}}" not in told] == []


def test_topics_and_questions_are_found_by_name_or_refused() -> None:
    assert bank().get("gil").topic == "parallel"
    with pytest.raises(UsageError, match=r"unknown topic 'cooking'; allowed: basics, "):
        bank().of("cooking")
    with pytest.raises(UsageError, match="unknown question 'nothing'"):
        bank().get("nothing")


def test_a_bank_of_both_kinds_is_read(tmp_path: Path) -> None:
    found = read_bank(written(tmp_path, NUMERIC, OPEN))
    assert list(found.topics) == ["example"]
    assert [type(question) for question in found.questions] == [Numeric, Open]
    assert found.get("cores_here").needed == ("num_cores",)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "No Id"}, "an id is 3 to 41"),
        ({"level": 4}, "level is 4; allowed: 1 to 3"),
        ({"formula": "no_formula"}, "formula 'no_formula' was asked for"),
        ({"tolerance": 0.5}, "a tolerance is 0 to 0.1"),
        ({"given": {}}, "takes serial_share: neither given nor known"),
        ({"given": {"serial_share": 0.5, "shrink": 2}}, "given and not used: shrink"),
        ({"question": {"en": "{num_cores}?", "zh": "{num_cores} 个核？"}}, "the question does not say serial_share"),
        ({"question": {"en": "{nothing}?", "zh": "{nothing} 呢？"}}, "holds {nothing}, which has no value"),
        ({"solution": {"en": "It is {answer}.", "zh": "答案。"}}, "only one language holds {answer}"),
        ({"solution": {"en": "It is.", "zh": "答案。"}}, "a solution ends in {answer}"),
        ({"solution": {"en": "It is {answer}.", "zh": "It is {answer}."}}, "no Chinese"),
        ({"solution": {"en": "答案 {answer}", "zh": "答案 {answer}"}}, "no English"),
        ({"solution": {"en": "It is {answer}."}}, "a text holds `en` and `zh`"),
        ({"more": 1}, "fields must be formula, given, id"),
    ],
)
def test_a_numeric_question_that_breaks_the_schema_is_named(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LabkitError) as refused:
        read_bank(written(tmp_path, {**NUMERIC, **changes}))
    assert reason in str(refused.value)
    assert str(refused.value).startswith("interview bank 01_example.json, question ")
    assert "\n" not in str(refused.value)


def test_an_open_question_needs_points(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="a rubric has 3 to 8 points, not 2"):
        read_bank(written(tmp_path, {**OPEN, "rubric": [POINT] * 2}))


def test_ids_are_unique_and_a_bank_is_not_empty(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="expected ids of their own, found: why_open"):
        read_bank(written(tmp_path, OPEN, OPEN))
    with pytest.raises(LabkitError, match="no question at all"):
        read_bank(written(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", '{"topic": 1, "questions": []}', '{"topic": {"en": "a", "zh": "要点"}}'])
def test_a_file_that_is_no_topic_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "01_example.json").write_text(text)
    with pytest.raises(LabkitError, match=r"interview bank 01_example.json: "):
        read_bank(tmp_path)


def test_the_memory_of_a_gpu_that_has_none_of_its_own_is_the_machines() -> None:
    here = dataclasses.replace(GPU, gpu_memory_bytes=None)
    assert Reader.of(here, make_run(here, LARGE, device="cuda", step_s=0.01)).figures["memory_bytes"] == 200 * GIB
