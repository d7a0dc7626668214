"""Bank: the questions of `data/interview`, one file a topic, each checked against its schema when it is read."""

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from labkit.core.errors import LabkitError, UsageError
from labkit.core.language import Text, is_chinese
from labkit.core.paths import data_path
from labkit.interview.formulas import FORMULAS, needed
from labkit.interview.reader import FIGURES

LEVELS = (1, 2, 3)
ANSWER = "answer"
_ID = re.compile(r"[a-z][a-z0-9_]{2,40}")
_SHARED = {"id", "level", "question"}
_NUMERIC = _SHARED | {"formula", "given", "tolerance", "solution"}
_OPEN = _SHARED | {"rubric", "answer"}
_MAX_TOLERANCE = 0.1
_NUM_POINTS = (3, 8)


@dataclass(frozen=True)
class Numeric:
    """A question about the reader's own figures.

    `formula` names the function that gives the expected value from those figures and from what is `given`; an answer
    within the relative `tolerance` is right. Texts hold the names of figures, of what is given and of formulas in
    braces; `solution` also `{answer}`.
    """

    id: str
    topic: str
    level: int
    question: Text
    formula: str
    given: Mapping[str, float]
    tolerance: float
    solution: Text

    @property
    def needed(self) -> tuple[str, ...]:
        """Figures of the reader without which it cannot be asked."""
        told = [
            name for name in _placeholders(self.question.en + self.solution.en) if name not in {*self.given, ANSWER}
        ]
        taken = [needed(name, self.given) if name in FORMULAS else (name,) for name in (self.formula, *told)]
        return tuple(dict.fromkeys(name for names in taken for name in names))


@dataclass(frozen=True)
class Open:
    """A question that is answered in words: points that an answer must name, and a model answer."""

    id: str
    topic: str
    level: int
    question: Text
    rubric: tuple[Text, ...]
    answer: Text


Question = Numeric | Open


@dataclass(frozen=True)
class Bank:
    """Topics by name, in the order of the lessons, and their questions."""

    topics: Mapping[str, Text]
    questions: tuple[Question, ...]

    def of(self, topic: str) -> tuple[Question, ...]:
        """Questions of a topic; all of them for an empty name.

        Raises:
            UsageError: there is no such topic.
        """
        if topic and topic not in self.topics:
            raise UsageError.unknown("topic", topic, self.topics)
        return tuple(question for question in self.questions if topic in ("", question.topic))

    def get(self, id: str) -> Question:
        """The question of this id.

        Raises:
            UsageError: there is none.
        """
        for question in self.questions:
            if question.id == id:
                return question
        raise UsageError(f"unknown question {id[:60]!r}; `labkit interview --list` shows all of them")


@lru_cache(maxsize=1)
def bank() -> Bank:
    """The bank that ships.

    Raises:
        LabkitError: a file is missing or breaks the schema.
    """
    return read_bank(data_path("interview"))


def read_bank(folder: Path) -> Bank:
    """The questions of a folder, whose files are read in the order of their names.

    Raises:
        LabkitError: a file is missing or breaks the schema; the message names file and question.
    """
    topics: dict[str, Text] = {}
    questions: list[Question] = []
    for path in sorted(folder.glob("*.json")):
        name = path.stem.partition("_")[2]
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            _check(set(fields) == {"topic", "questions"}, "a file holds `topic` and `questions`")
            topics[name] = _text(fields["topic"])
        except (OSError, ValueError, TypeError) as error:
            raise LabkitError(f"interview bank {path.name}: {_line(error)}") from None
        for entry in fields["questions"]:
            try:
                questions.append(question_of(name, entry))
            except (ValueError, TypeError, KeyError, AttributeError, LabkitError) as error:
                id = entry.get("id", "?") if isinstance(entry, dict) else "?"
                raise LabkitError(f"interview bank {path.name}, question {id!r}: {_line(error)}") from None
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids) or not ids:
        twice = ", ".join(sorted({id for id in ids if ids.count(id) > 1})) or "no question at all"
        raise LabkitError(f"interview bank {folder.name}: expected ids of their own, found: {twice}")
    return Bank(topics, tuple(questions))


def question_of(topic: str, entry: Mapping[str, Any]) -> Question:
    """The question that an entry of a file describes.

    Raises ValueError, TypeError, KeyError or AttributeError for an entry that breaks the schema.
    """
    is_numeric = "formula" in entry
    allowed = _NUMERIC if is_numeric else _OPEN
    _check(set(entry) == allowed, f"fields must be {', '.join(sorted(allowed))}")
    _check(_ID.fullmatch(entry["id"]) is not None, "an id is 3 to 41 of a to z, 0 to 9 and _")
    _check(entry["level"] in LEVELS, f"level is {entry['level']!r}; allowed: 1 to 3")
    question = _text(entry["question"])
    shared = {"id": entry["id"], "topic": topic, "level": entry["level"], "question": question}
    if not is_numeric:
        rubric = tuple(map(_text, entry["rubric"]))
        _check(_NUM_POINTS[0] <= len(rubric) <= _NUM_POINTS[1], f"a rubric has 3 to 8 points, not {len(rubric)}")
        return Open(**shared, rubric=rubric, answer=_text(entry["answer"]))
    numeric = Numeric(
        **shared,
        formula=entry["formula"],
        given={name: float(value) for name, value in entry["given"].items()},
        tolerance=float(entry["tolerance"]),
        solution=_text(entry["solution"]),
    )
    _check(0 <= numeric.tolerance <= _MAX_TOLERANCE, f"a tolerance is 0 to {_MAX_TOLERANCE}")
    _check_names(numeric)
    return numeric


def _check_names(numeric: Numeric) -> None:
    """Every name is one that a value can be found for, and both languages hold the same ones."""
    known = {*FIGURES, *numeric.given, *FORMULAS}
    taken = {*needed(numeric.formula, {})}
    _check(
        taken <= known, f"formula {numeric.formula} takes {', '.join(sorted(taken - known))}: neither given nor known"
    )
    for text, allowed in ((numeric.question, known), (numeric.solution, known | {ANSWER})):
        en, zh = (set(_placeholders(told)) for told in (text.en, text.zh))
        _check(en <= allowed, f"a text holds {{{', '.join(sorted(en - allowed))}}}, which has no value")
        _check(en == zh, f"only one language holds {{{', '.join(sorted(en ^ zh))}}}")
    _check(f"{{{ANSWER}}}" in numeric.solution.en, "a solution ends in {answer}")
    unused = set(numeric.given) - taken
    _check(not unused, f"given and not used: {', '.join(sorted(unused))}")
    untold = set(numeric.given) - set(_placeholders(numeric.question.en))
    _check(not untold, f"the question does not say {', '.join(sorted(untold))}")


def _text(entry: Mapping[str, str]) -> Text:
    _check(isinstance(entry, dict) and set(entry) == {"en", "zh"}, "a text holds `en` and `zh`")
    text = Text(**entry)
    _check(bool(text.en.strip()) and not is_chinese(text.en), f"no English: {text.en[:40]!r}")
    _check(is_chinese(text.zh), f"no Chinese: {text.zh[:40]!r}")
    return text


def _placeholders(text: str) -> Iterator[str]:
    return (name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _line(error: Exception) -> str:
    told = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(told.split())


def unfilled(question: Numeric, figures: Sequence[str] | Mapping[str, object]) -> tuple[str, ...]:
    """Figures that a question needs and that are not among these."""
    return tuple(name for name in question.needed if name not in figures)
