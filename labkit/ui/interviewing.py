"""Interview questions as a reader sees them: with their own figures, in their language, graded in a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.bench.ceilings import known_ceilings
from labkit.core.effort import GLANCE
from labkit.core.errors import LabkitError, Unavailable
from labkit.core.language import Text
from labkit.core.machine import machine
from labkit.core.paths import cache_folder, home
from labkit.core.run import Run
from labkit.interview.bank import Numeric, Open, Question, bank, unfilled
from labkit.interview.grading import Asked, Grade, ask, grade_number
from labkit.interview.progress import FILE_NAME, Progress
from labkit.interview.quantities import dimension_of
from labkit.interview.reader import COMMAND, Reader
from labkit.model.source import sizes_of
from labkit.ui import units
from labkit.ui.history import open_store
from labkit.ui.language import retold, tr

_FORMS: Mapping[str, units.Formatter] = {
    "_bytes_per_s": units.bandwidth,
    "_tok_per_s": units.rate,
    "_flops_per_s": units.arithmetic,
    "_flops_per_byte": lambda value: units.rate(value, "FLOP/byte"),
    "_flops": lambda value: units.rate(None if value is None else value / 1e6, "MFLOP"),
    "_per_s": lambda value: _plain(value or 0.0),
    "_bytes": units.size,
    "_share": units.percent,
    "_factor": units.ratio,
    "_s": units.seconds,
}
"""How a figure is shown, by the end of its name; the first that fits."""

_NUM_SEARCHED = 200  # of the newest Runs; older ones say little of the machine as it is


@dataclass(frozen=True)
class Presented:
    """A question that can be asked now; `asked` holds the figures of a numeric one."""

    question: Question
    text: str
    asked: Asked | None = None

    @property
    def hint(self) -> str:
        """How the answer may be written; "" for one in words."""
        if self.asked is None:
            return ""
        return tr("such as {example}", example=dimension_of(self.asked.question.formula).example)

    @property
    def kind(self) -> str:
        """`numeric` or `open`."""
        return kind_of(self.question)

    @property
    def expected(self) -> str:
        """The right answer of a numeric question, with its unit."""
        return "" if self.asked is None else figure(self.asked.question.formula, self.asked.expected)

    @property
    def solution(self) -> str:
        """The worked solution with the reader's numbers, or the model answer."""
        match self.question:
            case Numeric(solution=solution) if self.asked is not None:
                return filled(solution, {**self.asked.values, "answer": self.asked.expected}, self.expected)
            case Open(answer=answer):
                return answer.told
        return ""

    @property
    def points(self) -> tuple[str, ...]:
        """The rubric; () for a numeric question."""
        return tuple(point.told for point in self.question.rubric) if isinstance(self.question, Open) else ()

    def graded(self, answer: str) -> Grade:
        """The grade of a number as it was written.

        Raises:
            UsageError: it is no quantity of the kind that was asked for.
        """
        assert self.asked is not None
        return grade_number(self.asked, self.asked.value(answer))


def present(question: Question, reader: Reader) -> Presented:
    """The question as this reader is asked it.

    Raises:
        Unavailable: it needs a figure that is missing; the message names the command that measures it.
    """
    if isinstance(question, Open):
        return Presented(question, question.question.told)
    asked = ask(question, reader)
    return Presented(question, filled(question.question, asked.values), asked)


def listed(questions: tuple[Question, ...], reader: Reader) -> list[dict[str, Any]]:
    """Questions as plain data, those that cannot be asked yet with the reason."""
    return [_entry(question, reader) for question in questions]


def topics() -> dict[str, str]:
    """Titles of the topics in the language in use, by name."""
    return {name: title.told for name, title in bank().topics.items()}


def topic_rows() -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Topics as a titled table, with what was answered of them."""
    answered, questions = Progress.load(progress_path()).by_topic(), bank().questions
    rows = []
    for name, title in topics().items():
        num, score = answered.get(name, (0, None))
        total = sum(question.topic == name for question in questions)
        rows.append((name, title, f"{num}/{total}", units.percent(score)))
    return tr("Topics"), (tr("name"), tr("topic"), tr("answered"), tr("score")), rows


def question_rows(entries: Sequence[Mapping[str, Any]]) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Questions as a titled table."""
    rows = [
        (
            entry["id"],
            entry["topic"],
            tr(entry["kind"]),
            str(entry["level"]),
            entry["question"] or tr("needs a Run of your own: {command}", command=COMMAND),
        )
        for entry in entries
    ]
    return tr("Questions"), (tr("question"), tr("topic"), tr("kind"), tr("level"), tr("text")), rows


def kind_of(question: Question) -> str:
    """`numeric` or `open`."""
    return "numeric" if isinstance(question, Numeric) else "open"


def askable(questions: tuple[Question, ...], reader: Reader) -> tuple[Question, ...]:
    """Those of the questions whose figures are all known."""
    return tuple(one for one in questions if isinstance(one, Open) or not unfilled(one, reader.figures))


def reader_here() -> Reader:
    """Figures of this machine and of the newest Run on it, a valid one where there is any.

    Raises:
        StoreError: the history cannot be read.
    """
    here = machine()
    run = _latest(here.fingerprint)
    device = run.device if run else "cpu"
    threads = run.build.get("threads") if run else None
    try:
        ceilings = known_ceilings(device, cache_folder(), threads)
        sizes = sizes_of(str(run.model["name"])) if run else None
    except LabkitError:  # a device or a folder that is gone since
        return Reader.of(here, run)
    return Reader.of(here, run, ceilings, sizes)


def progress_path() -> Path:
    """Where progress is kept."""
    return home() / FILE_NAME


def verdict(grade: Grade) -> str:
    """The grade of a number in a sentence, with the slip that explains it where one does."""
    if grade.is_right:
        return tr("Right.")
    return tr("Wrong.") if grade.hint is None else tr("Wrong: {hint}", hint=grade.hint.told)


def filled(text: Text, values: Mapping[str, float | str], answer: str = "") -> str:
    """A text in the language in use with its figures, each in a unit that suits its name."""
    shown = {name: figure(name, value) for name, value in values.items()}
    return text.told.format(**{**shown, "answer": answer})


def figure(name: str, value: float | str) -> str:
    """A figure of this name with its unit."""
    if isinstance(value, str):
        return value
    form = next((form for suffix, form in _FORMS.items() if name.endswith(suffix)), None)
    return _plain(value) if form is None else form(value)


def _plain(value: float) -> str:
    if float(value).is_integer():
        return units.count(value)
    short = f"{value:g}"
    return short if len(short) <= 4 else units.number(value)


def _entry(question: Question, reader: Reader) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": question.id, "topic": question.topic, "level": question.level, "kind": kind_of(question)
    }  # fmt: skip
    try:
        return {**entry, "question": present(question, reader).text, "missing": ""}
    except Unavailable as error:
        return {**entry, "question": "", "missing": retold(str(error))}


def _latest(fingerprint: str) -> Run | None:
    """The newest Run of an engine on this machine, valid ones first, and of these what is more than a glance."""
    with open_store() as store:
        found = [
            run
            for run in store.runs(limit=_NUM_SEARCHED, status="done")
            if run.machine.get("fingerprint") == fingerprint and run.model.get("num_parameters") and run.cost
        ]
    return max(found, key=lambda run: (run.is_valid, run.effort != GLANCE), default=None)  # the newest of equals
