"""The interview as a dialog of lines: a question is said, an answer is read, the grade and the solution are said."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.core.errors import UsageError
from labkit.interview.bank import Open, Question
from labkit.interview.grading import Grade, grade_points
from labkit.interview.progress import ALLOWED_S, Progress
from labkit.interview.reader import Reader
from labkit.ui import units
from labkit.ui.interviewing import Presented, present, topics, verdict
from labkit.ui.language import retold, tr

Read = Callable[[], str | None]
Say = Callable[[str], None]


@dataclass
class Dialog:
    """One sitting. `read` gives a line, None at the end of the input; `is_patient` asks again after a bad line.

    Every answer is kept at once in the file at `path`.
    """

    reader: Reader
    path: Path
    read: Read
    say: Say
    is_timed: bool = False
    is_patient: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)

    def run(self, questions: Sequence[Question]) -> None:
        """Ask one question after the other, until the input ends.

        Raises:
            UsageError: a line is no answer. Unavailable: a question needs a figure that is missing.
        """
        for number, question in enumerate(questions, 1):
            shown = present(question, self.reader)
            allowed = f" · {_minutes(ALLOWED_S[shown.kind])}" if self.is_timed else ""
            self.say(f"\n[{number}/{len(questions)}] {topics()[question.topic]} · {question.id}{allowed}\n{shown.text}")
            start_s = time.perf_counter()
            graded = self._words(question, shown) if isinstance(question, Open) else self._number(shown)
            if graded is None:
                return
            answer, grade, end_s = graded
            self._keep(shown, answer, grade, end_s - start_s)

    def summary(self) -> dict[str, Any]:
        """What was answered, as plain data; the topics that were not all right, the worst first."""
        scores: dict[str, list[float]] = {}
        for result in self.results:
            scores.setdefault(result["topic"], []).append(result["score"])
        means = {topic: sum(found) / len(found) for topic, found in scores.items()}
        return {
            "num_answered": len(self.results),
            "score": sum(result["score"] for result in self.results),
            "took_s": sum(result["took_s"] for result in self.results),
            "num_late": sum(result["is_late"] for result in self.results),
            "revisit": sorted((topic for topic in means if means[topic] < 1), key=means.__getitem__),
        }

    def told(self) -> str:
        """The summary in words."""
        found = self.summary()
        lines = [
            tr(
                "{score} of {num} points in {time}",
                score=units.number(found["score"], 2),
                num=found["num_answered"],
                time=_minutes(found["took_s"]),
            )
        ]
        if self.is_timed:
            lines.append(tr("answers over their time: {num}", num=found["num_late"]))
        if found["revisit"]:
            lines.append(tr("read again: {topics}", topics=", ".join(topics()[name] for name in found["revisit"])))
        return "\n".join(lines)

    def _number(self, shown: Presented) -> tuple[str, Grade, float] | None:
        self.say(tr("Your answer ({hint}):", hint=shown.hint))
        found = self._parsed(lambda line: shown.graded(line) if line else Grade(0.0))
        if found is None:
            return None
        line, grade, at_s = found
        self.say(f"{verdict(grade)} {shown.solution}")
        return line, grade, at_s

    def _words(self, question: Open, shown: Presented) -> tuple[str, Grade, float] | None:
        self.say(tr("Answer aloud or in a line; Enter shows what an answer must name."))
        answer = self.read()
        at_s = time.perf_counter()
        if answer is None:
            return None
        self.say("\n".join(f"  {number}. {point}" for number, point in enumerate(shown.points, 1)))
        self.say(tr("Which of them did you name? Their numbers, such as 1 3 4; Enter for none:"))
        found = self._parsed(lambda line: grade_points(question, ticked(line, len(shown.points))))
        if found is None:
            return None
        self.say(f"{units.percent(found[1].score)}\n\n{shown.solution}")
        return answer.strip(), found[1], at_s

    def _parsed(self, grade: Callable[[str], Grade]) -> tuple[str, Grade, float] | None:
        """A line that can be graded; None at the end of the input."""
        while (line := self.read()) is not None:
            at_s = time.perf_counter()
            try:
                return line.strip(), grade(line.strip()), at_s
            except UsageError as error:
                if not self.is_patient:
                    raise
                self.say(retold(str(error)))
        return None

    def _keep(self, shown: Presented, answer: str, grade: Grade, took_s: float) -> None:
        question = shown.question
        Progress.load(self.path).adding(question, score=grade.score, took_s=took_s).save(self.path)
        is_late = self.is_timed and took_s > ALLOWED_S[shown.kind]
        if is_late:
            self.say(tr("That took {time}; in an interview it is too long.", time=_minutes(took_s)))
        self.results.append(
            {
                "id": question.id,
                "topic": question.topic,
                "kind": shown.kind,
                "question": shown.text,
                "answer": answer,
                "score": grade.score,
                "is_right": grade.is_right,
                "expected": shown.expected,
                "rubric": list(shown.points),
                "solution": shown.solution,
                "took_s": took_s,
                "is_late": is_late,
            }
        )


def ticked(line: str, num_points: int) -> set[int]:
    """Numbers of points as they were written, `1 3 4` or `1,3,4`.

    Raises:
        UsageError: something else, or a number that no point has.
    """
    words = re.split(r"[\s,，、]+", line.strip()) if line.strip() else []
    if not set(words) <= {str(number) for number in range(1, num_points + 1)}:
        raise UsageError(
            f"points {line.strip()[:40]!r} were named; allowed: numbers from 1 to {num_points}, such as 1 3"
        )
    return {int(word) for word in words}


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
