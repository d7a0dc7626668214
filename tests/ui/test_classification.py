"""Answers and scores as rows, as plain data, and in the report of a classifier's Run."""

import json

import numpy as np
import pytest

from labkit.text.classifier import Answer
from labkit.text.scores import Scores
from labkit.ui import classification, prose, report
from tests.ui.conftest import make_run

ANSWER = Answer("sea", {"sea": 0.7, "sky": 0.2, "fire": 0.06, "earth": 0.04})
GOOD = Scores(("sea", "sky"), np.array([[9, 1], [0, 10]]))
BAD = Scores(("sea", "sky"), np.array([[5, 5], [0, 10]]))


def test_the_three_likeliest_topics_are_shown() -> None:
    assert [topic for _, topic in classification.answer_rows(ANSWER)] == ["sea", "sky", "fire"]


def test_the_best_stands_first_and_the_loser_is_told_so() -> None:
    scores = {"RNN": BAD, "regression": GOOD}
    assert [row[0] for row in classification.score_rows(scores)] == ["classifier", "regression", "RNN"]
    assert classification.verdict(scores) == "RNN loses to regression by 20.0 points of accuracy"
    assert "beats" in classification.verdict({"RNN": GOOD, "regression": BAD})
    assert "equals" in classification.verdict({"RNN": GOOD, "regression": GOOD})


def test_confusion_has_a_row_and_a_column_for_each_topic() -> None:
    assert classification.confusion_rows(GOOD) == [["topic", "1", "2"], ["1 sea", "9", "1"], ["2 sky", "·", "10"]]


def test_plain_data_survives_json() -> None:
    fields = classification.fields({"a wave": ANSWER}, {"RNN": GOOD})
    assert json.loads(json.dumps(fields)) == fields
    assert fields["scores"]["RNN"]["confusion"] == [[9, 1], [0, 10]]


@pytest.mark.parametrize(("ours", "said"), [(BAD, "RNN loses to regression by 20.0 points"), (GOOD, "RNN equals")])
def test_a_report_sets_scores_beside_simpler_ways_once_for_runs_that_answer_alike(ours: Scores, said: str) -> None:
    build = {"scores": {"RNN": ours.fields, "regression": GOOD.fields}}
    runs = [make_run(recipe, build=build, quality={"accuracy": ours.accuracy}) for recipe in ("", "rnn_runtime")]
    assert all(said in sentence.text for sentence in prose.verdicts(runs, None))
    page = report.html(runs)
    assert page.count("Right and wrong answers: baseline") == 1
    assert "Right and wrong answers: rnn_runtime" not in page
    assert "What each topic is taken for" in page
    assert said in report.markdown(runs)


def test_other_systems_have_no_scores() -> None:
    assert classification.scores_of(make_run()) == {}
    assert "Right and wrong" not in report.html([make_run()])
