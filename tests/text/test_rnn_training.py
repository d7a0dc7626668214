"""Training on a small made-up language: learnt, repeated exactly, cached, and done by another process."""

import random
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.core.errors import CheckpointError, LabkitError, UsageError
from labkit.model.cells import GATES, Cell
from labkit.text import rnn_trained
from labkit.text.classifier import ClassifierSettings, TextClassifier
from labkit.text.corpus import Corpus, Document
from labkit.text.rnn_torch import RnnModule
from labkit.text.rnn_trained import TrainedRnn, Training, trained
from labkit.text.rnn_training import train, walked
from labkit.text.vocabulary import PADDING

SMALL = Training(length=12, vocabulary=64, embedding=16, units=16, max_epochs=12, batch=16, learning_rate=1e-2)
TORCH = ClassifierSettings(runtime="torch", is_folded=True)
SUBJECTS = {
    "sea": "ship sail wave harbour tide",
    "kitchen": "pan oven bread salt butter",
    "sky": "star moon cloud sun rain",
}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Texts of filler words and two of their topic."""
    rng = random.Random(0)
    documents = []
    for topic, subjects in SUBJECTS.items():
        for number in range(60):
            words = rng.choices(["the", "a", "of", "with", "and", "under"], k=6) + rng.sample(subjects.split(), 2)
            rng.shuffle(words)
            documents.append(Document(" ".join(words), topic, f"module{number % 5}", str(number)))
    return Corpus.of(documents)


@pytest.mark.parametrize("cell", GATES)
def test_topics_are_learnt(cell: Cell, corpus: Corpus) -> None:
    learnt, test = corpus.split()
    classifier = TextClassifier(train(learnt, replace(SMALL, cell=cell)), TORCH, test=test)
    assert classifier.quality("quick")["accuracy"] > 0.9
    assert classifier.classify("bread with butter").topic == "kitchen"


@pytest.mark.parametrize("cell", GATES)
def test_a_walk_step_by_step_says_what_the_layer_says_and_learns_what_it_learns(cell: Cell) -> None:
    torch.manual_seed(0)
    module = RnnModule(cell, vocabulary=20, embedding=8, units=6, classes=3)
    ids = torch.randint(1, 20, (4, 7))
    ids[0, 4:] = ids[1, 2] = ids[2] = PADDING  # shorter, with a gap, and without a word
    grads = []
    for logits in (module(ids), walked(module, ids)):
        module.zero_grad()
        torch.autograd.backward(logits.square().sum())
        grads.append((logits, *(parameter.grad for parameter in module.parameters())))
    torch.testing.assert_close(*grads)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(corpus: Corpus) -> None:
    once, again, other = (train(corpus, replace(SMALL, max_epochs=1, seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(once.weights.recurrent, again.weights.recurrent)
    assert not np.array_equal(once.weights.recurrent, other.weights.recurrent)


def test_training_stops_when_validation_does_not_improve(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([0.3, 0.2, 0.2, 0.25, 0.1])
    monkeypatch.setattr("labkit.text.rnn_training._errors", lambda *_: next(errors))
    train(corpus, replace(SMALL, patience=2))
    assert next(errors) == 0.1


def test_what_was_trained_is_trained_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rnn_trained, "cache_folder", lambda: tmp_path)
    quick = replace(SMALL, max_epochs=1)
    first = trained(corpus, quick)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("trained again"))
    second = trained(corpus, quick)
    assert (first.topics, first.vocabulary, first.key) == (second.topics, second.vocabulary, second.key)
    assert np.array_equal(first.weights.table, second.weights.table)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="delete the file"):
        TrainedRnn.load(path)


def test_a_training_that_fails_is_quoted(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rnn_trained, "cache_folder", lambda: tmp_path)
    with pytest.raises(LabkitError, match=r"training a simple RNN on 180 texts failed: .*Error"):
        trained(corpus, replace(SMALL, units=-1))


def test_one_class_and_none_are_refused() -> None:
    with pytest.raises(UsageError, match="all are of class 'sea'"):
        trained(Corpus.of([Document("a ship", "sea", "m", "1")]), SMALL)
    with pytest.raises(UsageError, match="there is none"):
        trained(Corpus.of([]), SMALL)
