"""Progress: what was answered when and how well, kept in one JSON file under LABKIT_HOME; what to ask next."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from labkit.core.errors import StoreError
from labkit.core.paths import write_whole
from labkit.interview.bank import Numeric, Question

FILE_NAME = "interview.json"
SCHEMA = 1
MOCK_SIZE = 5
_MOCK_NUMERIC = 2
ALLOWED_S = {"numeric": 180.0, "open": 300.0}
"""Time for a question of a mock interview."""


@dataclass(frozen=True)
class Answered:
    """One answer: to which question, its score (1 = right, or the whole rubric), how long it took.

    Raises:
        TypeError, ValueError: a field is of the wrong kind, as in a file that was edited.
    """

    question: str
    topic: str
    score: float
    took_s: float
    at_utc: str

    def __post_init__(self) -> None:
        is_worded = all(isinstance(word, str) for word in (self.question, self.topic, self.at_utc))
        if not (is_worded and 0 <= self.score <= 1 and 0 <= self.took_s < math.inf):
            raise ValueError(f"no answer: {str(asdict(self))[:200]}")


@dataclass(frozen=True)
class Progress:
    """Answers in the order they were given."""

    answers: tuple[Answered, ...] = ()

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """What is kept there; nothing where there is no file yet.

        Raises:
            StoreError: the file cannot be read, or holds something else.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["schema"] > SCHEMA:
                raise ValueError(f"schema {fields['schema']}, this labkit reads up to {SCHEMA}")
            return cls(tuple(Answered(**entry) for entry in fields["answers"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"progress {path} cannot be read: {error}; move the file away to begin anew") from None

    def save(self, path: Path) -> None:
        """Write the file in one step.

        Raises:
            StoreError: it cannot be written.
        """
        text = json.dumps({"schema": SCHEMA, "answers": [asdict(one) for one in self.answers]}, indent=1)
        try:
            write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise StoreError(
                f"progress {path} cannot be written: {error.strerror}; free space or set LABKIT_HOME"
            ) from None

    def adding(self, question: Question, *, score: float, took_s: float) -> "Progress":
        """The same with one answer more."""
        at_utc = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, answers=(*self.answers, Answered(question.id, question.topic, score, took_s, at_utc)))

    @property
    def latest(self) -> Mapping[str, Answered]:
        """The last answer to each question, by its id."""
        return {one.question: one for one in self.answers}

    def by_topic(self) -> Mapping[str, tuple[int, float]]:
        """How many questions of a topic were answered, and the mean of their latest scores."""
        scores: dict[str, list[float]] = {}
        for one in self.latest.values():
            scores.setdefault(one.topic, []).append(one.score)
        return {topic: (len(found), sum(found) / len(found)) for topic, found in scores.items()}


def order(questions: Sequence[Question], progress: Progress, *, seed: int) -> tuple[Question, ...]:
    """What to ask next: questions that were never answered, then the worst answered; alike ones in random order."""
    latest, rng = progress.latest, random.Random(seed)
    drawn = rng.sample(questions, len(questions))
    return tuple(sorted(drawn, key=lambda one: latest[one.id].score if one.id in latest else -1.0))


def mock(questions: Sequence[Question], progress: Progress, *, seed: int) -> tuple[Question, ...]:
    """Five questions, two of them numeric where there are any, of as many topics as can be, the easy ones first."""
    ordered = order(questions, progress, seed=seed)
    chosen: list[Question] = []
    for is_numeric, most in ((True, _MOCK_NUMERIC), (False, MOCK_SIZE)):
        kind = [one for one in ordered if isinstance(one, Numeric) is is_numeric]
        while kind and len(chosen) < most:
            seen = {one.topic for one in chosen}
            chosen.append(next((one for one in kind if one.topic not in seen), kind[0]))
            kind.remove(chosen[-1])
    return tuple(sorted(chosen, key=lambda one: one.level))
