"""The classifier as a System: what it refuses, what it answers, and that batches change nothing."""

from dataclasses import replace

import numpy as np
import pytest

from labkit.core.errors import UsageError
from labkit.core.workload import WorkloadSpec
from labkit.model.cells import GATES
from labkit.text.classifier import ClassifierSettings, TextClassifier, create_rnn_model, forecast_bytes
from labkit.text.corpus import Corpus, Document
from labkit.text.rnn_keras import KERAS_RUNTIMES
from labkit.text.rnn_trained import TrainedRnn, Training
from labkit.text.rnn_weights import random_weights
from labkit.text.vocabulary import Vocabulary

TOPICS = tuple("abcdefghij")
TEXTS = [f"text number {number} of the sea" for number in range(40)]
TEST = Corpus.of([Document(text, TOPICS[at % 10], "module", str(at)) for at, text in enumerate(TEXTS)])
TORCH = ClassifierSettings(runtime="torch", is_folded=True)
SPEC = WorkloadSpec("questions", "offline", 16, 1, num_requests=11)


def classifier(settings: ClassifierSettings = TORCH) -> TextClassifier:
    vocabulary = Vocabulary.of(TEXTS, size=100)
    rnn = TrainedRnn(random_weights("gru", vocabulary=100), vocabulary, TOPICS, 20, "key")
    return TextClassifier(rnn, settings, test=TEST)


def test_an_answer_ranks_every_topic() -> None:
    answer = classifier().classify("the sea")
    ranked = list(answer.probabilities.values())
    assert answer.topic == next(iter(answer.probabilities))
    assert ranked == sorted(ranked, reverse=True)
    assert sum(ranked) == pytest.approx(1)
    assert set(answer.probabilities) == set(TOPICS)


@pytest.mark.parametrize("text", ["", "…", "xyzzy plugh"])
def test_a_text_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="was to be classified"):
        classifier().classify(text)


@pytest.mark.parametrize("scenario", ["single_stream", "offline"])
def test_batches_answer_what_single_texts_are_answered(scenario: str) -> None:
    spec = replace(SPEC, scenario=scenario)  # type: ignore[arg-type]
    traces = []
    for size in (1, 4, 64):
        system = classifier(replace(TORCH, batch_size=size))
        traces.append(system.serve(system.prepare(spec.draw(0))))
    assert len({trace.checksum for trace in traces}) == 1
    assert all(len(request.output_ids) == 1 for trace in traces for request in trace.requests)


def test_scores_count_every_test_text() -> None:
    system = classifier()
    assert system.scores.confusion.sum(1).tolist() == [4] * 10
    assert system.quality("quick")["accuracy"] == system.scores.accuracy


def test_simpler_classifiers_stand_beside_where_they_could_learn() -> None:
    assert list(classifier().facts()["scores"]) == ["RNN, gru cells"]
    rnn = classifier().rnn
    recorded = TextClassifier(rnn, TORCH, test=TEST, learnt=TEST).facts()["scores"]
    assert next(iter(recorded)) == "RNN, gru cells"
    assert recorded["always the most frequent topic"]["accuracy"] == 0.1
    assert recorded["RNN, gru cells"]["confusion"] == classifier().scores.confusion.tolist()


def test_pruned_and_narrow_classifiers_still_answer() -> None:
    for settings in (replace(TORCH, units=16), replace(TORCH, units=13), replace(TORCH, precision="int8")):
        assert np.isfinite(list(classifier(settings).classify("the sea").probabilities.values())).all()


@pytest.mark.parametrize("runtime", KERAS_RUNTIMES)
def test_what_only_the_twin_does_is_refused_beside_keras(runtime: str) -> None:
    with pytest.raises(UsageError, match="fold_embedding was asked for"):
        ClassifierSettings(runtime=runtime, is_folded=True)
    with pytest.raises(UsageError, match="rnn_precision was asked for"):
        ClassifierSettings(runtime=runtime, precision="int8")


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="allowed: keras_predict"):
        ClassifierSettings(runtime="jax")
    with pytest.raises(UsageError, match=f"allowed: {', '.join(GATES)}"):
        Training.of("transformer")
    with pytest.raises(UsageError, match="num_classes is 1"):
        create_rnn_model((100,), 1)


def test_one_topic_is_not_enough() -> None:
    same = Corpus.of([Document(text, "sea", "module", text) for text in TEXTS])
    with pytest.raises(UsageError, match="one class"):
        TextClassifier.build(same, TORCH)


def test_a_process_of_keras_is_foretold_to_take_more() -> None:
    assert forecast_bytes(TEST, ClassifierSettings()) > forecast_bytes(TEST, TORCH) > 0
