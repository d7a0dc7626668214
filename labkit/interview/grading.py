"""Grading: what a numeric question expects of this reader, whether an answer holds, which slip explains a wrong one."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from labkit.core.errors import Unavailable
from labkit.core.language import Text
from labkit.interview.bank import Numeric, Open, unfilled
from labkit.interview.formulas import FORMULAS, needed, solve
from labkit.interview.quantities import dimension_of
from labkit.interview.reader import COMMAND, MEASURED_FIGURES, Reader

_SLIPS = (
    (2.0, Text("off by a factor of 2.", "差了 2 倍。")),
    (4.0, Text("off by a factor of 4: which dtype is it?", "差了 4 倍：数据类型对吗？")),
    (8.0, Text("off by a factor of 8: bits or bytes?", "差了 8 倍：是比特还是字节？")),
    (100.0, Text("off by a factor of 100: a share or percent?", "差了 100 倍：是小数还是百分数？")),
    (1e3, Text("off by a factor of 1,000; check the unit.", "差了 1000 倍，检查单位。")),
    (1e6, Text("off by a factor of a million; check the unit.", "差了一百万倍，检查单位。")),
)
"""Factors that a slip leaves behind, and what it was."""


@dataclass(frozen=True)
class Asked:
    """A numeric question with this reader's values: everything that its texts name, and the expected answer in SI."""

    question: Numeric
    values: Mapping[str, float | str]
    expected: float

    def is_right(self, given: float) -> bool:
        """Whether a value in SI lies within the tolerance."""
        return math.isclose(given, self.expected, rel_tol=self.question.tolerance, abs_tol=1e-12)

    def value(self, answer: str) -> float:
        """An answer as written, in SI.

        Raises:
            UsageError: it is no quantity of the kind that was asked for.
        """
        return dimension_of(self.question.formula).value(answer)


@dataclass(frozen=True)
class Grade:
    """How good an answer was (1 = all of it), and a hint for a wrong number."""

    score: float
    hint: Text | None = None

    @property
    def is_right(self) -> bool:
        """Whether nothing is missing."""
        return self.score == 1


def ask(question: Numeric, reader: Reader) -> Asked:
    """The question with the reader's own figures.

    Raises:
        Unavailable: a figure is missing; the message names the command that measures it.
    """
    if missing := unfilled(question, reader.figures):
        raise Unavailable(_lacking(question.id, missing, reader.problem))
    values: dict[str, float | str] = {**reader.figures, **question.given}
    expected = solve(question.formula, values)
    for name in FORMULAS:  # steps on the way, which a solution may show
        if name not in values and all(figure in values for figure in needed(name, question.given)):
            values[name] = solve(name, values)
    return Asked(question, values, expected)


def grade_number(asked: Asked, given: float) -> Grade:
    """Right or wrong; of a wrong number the slip that would explain it."""
    if asked.is_right(given):
        return Grade(1.0)
    if given <= 0 or asked.expected <= 0:
        return Grade(0.0)
    ratio = max(given / asked.expected, asked.expected / given)
    near = [hint for factor, hint in _SLIPS if math.isclose(ratio, factor, rel_tol=0.03)]
    return Grade(0.0, near[0] if near else None)


def grade_points(question: Open, ticked: Collection[int]) -> Grade:
    """The share of a rubric's points, numbered from 1, that the answer named."""
    return Grade(len(set(ticked) & set(range(1, len(question.rubric) + 1))) / len(question.rubric))


def _lacking(id: str, missing: Collection[str], problem: str) -> str:
    if problem and set(missing) <= set(MEASURED_FIGURES):
        return (
            f"question {id!r} asks about times of your latest Run, which is INVALID({problem}): they are not used; "
            f"measure again: {COMMAND}"
        )
    return (
        f"question {id!r} asks about a Run of your own; not known here: {', '.join(sorted(missing))}; "
        f"this command makes one: {COMMAND}"
    )
