"""TextClassifier: an RNN that sorts texts into topics, as a System; and the seed of it all, `create_rnn_model`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from labkit.bench.answering import Answering
from labkit.core.errors import UsageError
from labkit.core.workload import Workload
from labkit.model.cells import GATES
from labkit.text.corpus import Corpus
from labkit.text.rnn_keras import KERAS_RUNTIMES, KerasClassifier, create_rnn_model
from labkit.text.rnn_trained import TrainedRnn, Training, trained
from labkit.text.rnn_weights import Array
from labkit.text.scores import Scores, compared
from labkit.text.vocabulary import Ids

__all__ = ["RUNTIMES", "Answer", "ClassifierSettings", "TextClassifier", "create_rnn_model"]

RUNTIMES: tuple[str, ...] = (*KERAS_RUNTIMES, "torch_layer", "torch")

_QUALITY_BATCH = 64
_FRAMEWORK_BYTES = {"tensorflow": 600 * 2**20, "torch": 0}  # beyond that of a process which holds torch


class Computing(Protocol):
    """What a runtime does, and what is to be said of it."""

    threads: int
    notes: str

    @property
    def weights_bytes(self) -> int:
        """Weights that it holds to answer, in bytes."""

    def probabilities(self, ids: Ids) -> Array:
        """[B, T] → [B, C]."""


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is trained and computes; the default is the article's, computed naively.

    `batch_size` is the most texts that are answered together; `units`, how many of the state are kept (None: all).
    `is_folded` and `precision` are the torch twin's.
    """

    runtime: str = "keras_predict"
    batch_size: int = 1
    is_folded: bool = False
    precision: str = "fp32"
    units: int | None = None
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise UsageError.unknown("runtime", self.runtime, RUNTIMES)
        asked = [("fold_embedding", self.is_folded), ("rnn_precision", self.precision != "fp32")]
        if self.framework != "torch" and (names := [name for name, is_on in asked if is_on]):
            raise UsageError(
                f"{names[0]} was asked for beside the runtime {self.runtime}, which computes layers as Keras has them; "
                "allowed: beside rnn_runtime(kind='torch')"
            )

    @property
    def framework(self) -> str:
        """What it computes with: "torch" or "tensorflow"."""
        return "tensorflow" if self.runtime in KERAS_RUNTIMES else "torch"


@dataclass(frozen=True)
class Answer:
    """What a text is taken for, and the probability of every topic, the likeliest first."""

    topic: str
    probabilities: Mapping[str, float]


class TextClassifier(Answering):
    """Texts in, the number of a topic out, in batches of what waits.

    Args:
        rnn: weights, vocabulary and topics.
        settings: how to compute.
        device: "cpu", or "cuda" for the torch twin.
        test: labelled texts that quality is measured on, and that a workload asks.
        learnt: what simpler classifiers may learn from, to be set beside; without it none is.
    """

    def __init__(
        self,
        rnn: TrainedRnn,
        settings: ClassifierSettings | None = None,
        *,
        device: str = "cpu",
        test: Corpus,
        learnt: Corpus | None = None,
    ) -> None:
        self.settings = settings or ClassifierSettings()
        super().__init__(test.texts, batch_size=self.settings.batch_size)
        self.rnn, self.test, self.learnt = rnn, test, learnt
        self._computing = _computing(rnn, self.settings, device)

    @classmethod
    def build(cls, corpus: Corpus, settings: ClassifierSettings, *, device: str = "cpu") -> "TextClassifier":
        """Train on the larger part of a corpus, or find what was trained; the other part asks.

        Raises:
            UsageError: the corpus has fewer than two topics. Unavailable: the framework is not installed.
        """
        learnt, test = corpus.split()
        return cls(trained(learnt, settings.training), settings, device=device, test=test, learnt=learnt)

    def classify(self, text: str) -> Answer:
        """What a text is about.

        Raises:
            UsageError: it holds no word that the vocabulary knows.
        """
        ids = self.rnn.vocabulary.encode_query(text, length=self.rnn.length)
        (row,) = self._computing.probabilities(ids)
        ranked = np.argsort(-row, kind="stable")
        topics = self.rnn.topics
        return Answer(topics[ranked[0]], {topics[number]: float(row[number]) for number in ranked})

    def read(self, texts: Sequence[str], workload: Workload) -> Sequence[Any]:
        """Rows of ids."""
        return list(self.rnn.vocabulary.encode(texts, length=self.rnn.length))

    def answer(self, inputs: Sequence[Any]) -> Sequence[int]:
        """The number of the likeliest topic."""
        numbers: list[int] = self._computing.probabilities(np.stack(inputs)).argmax(1).tolist()
        return numbers

    def quality(self, effort: str) -> Mapping[str, float]:
        """Accuracy and macro-F1 on the test texts, all of them whatever the effort."""
        return {"accuracy": self.scores.accuracy, "macro_f1": self.scores.macro_f1}

    @cached_property
    def scores(self) -> Scores:
        """How often each topic of the test texts is taken for each."""
        ids = self.rnn.vocabulary.encode(self.test.texts, length=self.rnn.length)
        size = self.settings.batch_size if self.settings.runtime == "xla" else _QUALITY_BATCH  # it compiles each size
        parts = [self._computing.probabilities(ids[at : at + size]) for at in range(0, len(ids), size)]
        answers = [self.rnn.topics[number] for number in np.concatenate(parts).argmax(1)]
        return Scores.of(self.rnn.topics, self.test.labels, answers)

    def beside(self) -> dict[str, Scores]:
        """The scores under the RNN's name, then those of simpler classifiers that learnt from the same texts."""
        name = f"RNN, {self.rnn.weights.cell} cells"
        return compared(name, self.scores, self.learnt, self.test) if self.learnt else {name: self.scores}

    def facts(self) -> Mapping[str, Any]:
        """See System; `frameworks` are those that the process holds."""
        return {
            "weights_bytes": self._computing.weights_bytes,
            "threads": self._computing.threads,
            "frameworks": [name for name in _FRAMEWORK_BYTES if name in sys.modules],
            "notes": self._computing.notes,
            "scores": {name: scores.fields for name, scores in self.beside().items()},
        }


def _computing(rnn: TrainedRnn, settings: ClassifierSettings, device: str) -> Computing:
    weights = rnn.weights if settings.units is None else rnn.weights.pruned(settings.units)
    if settings.framework != "torch":
        if device != "cpu":
            raise UsageError(f"{settings.runtime} was asked for on {device}; allowed there: rnn_runtime(kind='torch')")
        return KerasClassifier(weights, runtime=settings.runtime, batch=settings.batch_size)
    from labkit.text.rnn_torch import RnnTwin  # here, for a process of Keras holds no torch

    return RnnTwin(
        weights,
        is_folded=settings.is_folded,
        precision=settings.precision,
        device=device,
        has_native=settings.runtime == "torch",
    )


def forecast_bytes(corpus: Corpus, settings: ClassifierSettings) -> int:
    """About what a classifier will take in memory: weights as they are read and as they are held, framework, texts."""
    training = settings.training
    width = GATES[training.cell] * training.units
    weights = 4 * (training.vocabulary + width) * (training.embedding + (width if settings.is_folded else 0))
    return _FRAMEWORK_BYTES[settings.framework] + 2 * weights + 4 * sum(map(len, corpus.texts))
