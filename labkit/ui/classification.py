"""What a classifier answered, and how often it is right beside simpler ones: as rows, sentence and plain data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.language import retold, tr

if TYPE_CHECKING:
    from labkit.text.classifier import Answer
    from labkit.text.scores import Scores

_NUM_SHOWN = 3


def fields(answers: "Mapping[str, Answer]", scores: "Mapping[str, Scores]") -> dict[str, Any]:
    """Plain data: every topic's probability by text; accuracy, macro-F1 and confusion by classifier."""
    return {
        "schema": 1,
        "answers": [
            {"text": text, "topic": answer.topic, "probabilities": dict(answer.probabilities)}
            for text, answer in answers.items()
        ],
        "scores": {name: one.fields for name, one in scores.items()},
    }


def scores_of(run: Run) -> "dict[str, Scores]":
    """What a Run recorded of its classifier and of simpler ones, its own first; {} for other Systems."""
    recorded = run.build.get("scores", {})
    if not recorded:
        return {}
    import numpy as np

    from labkit.text.scores import Scores

    return {name: Scores(tuple(one["topics"]), np.array(one["confusion"])) for name, one in recorded.items()}


def answer_rows(answer: "Answer") -> list[tuple[str, str]]:
    """The likeliest topics of a text with their probabilities."""
    shown = list(answer.probabilities.items())[:_NUM_SHOWN]
    return [(units.percent(probability), topic) for topic, probability in shown]


def score_rows(scores: "Mapping[str, Scores]") -> list[list[str]]:
    """A head; then accuracy and macro-F1 of classifiers on the same texts, the best first."""
    ranked = sorted(scores.items(), key=lambda pair: -pair[1].accuracy)
    rows = [[retold(name), units.percent(one.accuracy), units.percent(one.macro_f1)] for name, one in ranked]
    return [[tr("classifier"), tr("accuracy"), tr("macro-F1")], *rows]


def confusion_rows(scores: "Scores") -> list[list[str]]:
    """A head; then what texts are about down, what they were taken for across, in the same order."""
    numbers = range(1, len(scores.topics) + 1)
    rows = [
        [f"{number} {topic}", *(str(count) if count else "·" for count in row)]
        for number, topic, row in zip(numbers, scores.topics, scores.confusion.tolist(), strict=True)
    ]
    return [[tr("topic"), *map(str, numbers)], *rows]


def verdict(scores: "Mapping[str, Scores]") -> str:
    """Whether the first classifier is worth its price: it beside the best of the others."""
    (own, ours), *others = scores.items()
    best, theirs = max(others, key=lambda pair: pair[1].accuracy)
    own, best = retold(own), retold(best)
    points = 100 * (ours.accuracy - theirs.accuracy)
    if not points:
        return tr("{ours} equals {best}", ours=own, best=best)
    told = f"{abs(points):.1f}"
    if points > 0:
        return tr("{ours} beats {best} by {points} points of accuracy", ours=own, best=best, points=told)
    return tr("{ours} loses to {best} by {points} points of accuracy", ours=own, best=best, points=told)
