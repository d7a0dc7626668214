"""TextClassifier: an RNN that sorts texts into topics, as a System; and the seed of it all, `create_rnn_model`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from labkit.bench.answering import Answering
from labkit.core.errors import UsageError
from labkit.core.workload import Workload
from labkit.text.corpus import Corpus
from labkit.text.rnn_keras import KERAS_RUNTIMES, KerasClassifier, create_rnn_model
from labkit.text.rnn_trained import TrainedRnn
from labkit.text.rnn_weights import Array
from labkit.text.scores import Scores
from labkit.text.vocabulary import Ids

__all__ = ["RUNTIMES", "Answer", "ClassifierConfig", "TextClassifier", "create_rnn_model"]

Runtime = Literal["keras_predict", "keras_call", "tf_function", "xla", "torch"]
RUNTIMES: tuple[Runtime, ...] = (*KERAS_RUNTIMES, "torch")

_QUALITY_BATCH = 64


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
class ClassifierConfig:
    """How a classifier computes; the default is the naive baseline.

    `batch` is the most texts that are answered together; `units`, how many of the state are kept (None: all).
    `is_folded` and `precision` are the torch twin's.
    """

    runtime: Runtime = "keras_predict"
    batch: int = 1
    is_folded: bool = False
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    units: int | None = None

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise UsageError.unknown("runtime", self.runtime, RUNTIMES)
        asked = [("fold_embedding", self.is_folded), ("rnn_precision", self.precision != "fp32")]
        if self.runtime != "torch" and (names := [name for name, is_on in asked if is_on]):
            raise UsageError(
                f"{names[0]} was asked for beside the runtime {self.runtime}; Keras computes the layers as they are; "
                "allowed beside: rnn_runtime(kind='torch')"
            )


@dataclass(frozen=True)
class Answer:
    """What a text is taken for, and the probability of every topic, the likeliest first."""

    topic: str
    probabilities: Mapping[str, float]


class TextClassifier(Answering):
    """Texts in, the number of a topic out, in batches of what waits.

    Args:
        trained: weights, vocabulary and topics.
        config: how to compute.
        device: "cpu", or "cuda" for the torch twin.
        test: labelled texts that quality is measured on, and that a workload asks.
    """

    def __init__(
        self,
        trained: TrainedRnn,
        config: ClassifierConfig | None = None,
        *,
        device: str = "cpu",
        test: Corpus | None = None,
    ) -> None:
        self.trained, self.config, self.device = trained, config or ClassifierConfig(), device
        super().__init__(test.texts if test is not None else (), batch_size=self.config.batch)
        self._test = test
        self._weights = trained.weights
        if self.config.units is not None:
            self._weights = trained.weights.pruned(self.config.units)
        self._computing = self._built()

    def classify(self, text: str) -> Answer:
        """What a text is about.

        Raises:
            UsageError: it holds no word that the vocabulary knows.
        """
        ids = self.trained.vocabulary.encode_query(text, length=self.trained.length)
        (row,) = self._computing.probabilities(ids)
        ranked = np.argsort(-row, kind="stable")
        topics = self.trained.topics
        return Answer(topics[ranked[0]], {topics[number]: float(row[number]) for number in ranked})

    def read(self, texts: Sequence[str], workload: Workload) -> Sequence[Any]:
        """Rows of ids."""
        return list(self.trained.vocabulary.encode(texts, length=self.trained.length))

    def answer(self, inputs: Sequence[Any]) -> Sequence[int]:
        """The number of the likeliest topic."""
        numbers: list[int] = self._computing.probabilities(np.stack(inputs)).argmax(1).tolist()
        return numbers

    def quality(self, effort: str) -> Mapping[str, float]:
        """Accuracy and macro-F1 on the test texts, all of them whatever the effort; {} where there are none."""
        if self._test is None:
            return {}
        scores = self.scores(self._test)
        return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1}

    def scores(self, test: Corpus) -> Scores:
        """How often each topic of labelled texts is taken for each."""
        ids = self.trained.vocabulary.encode(test.texts, length=self.trained.length)
        size = self.config.batch if self.config.runtime == "xla" else _QUALITY_BATCH
        parts = [self._computing.probabilities(ids[at : at + size]) for at in range(0, len(ids), size)]
        answers = [self.trained.topics[number] for number in np.concatenate(parts).argmax(1)]
        return Scores.of(self.trained.topics, test.labels, answers)

    def facts(self) -> Mapping[str, Any]:
        """What a Run records of the build."""
        return {
            "weights_bytes": self._computing.weights_bytes,
            "threads": self._computing.threads,
            "notes": self._computing.notes,
        }

    def _built(self) -> Computing:
        config = self.config
        if config.runtime != "torch":
            return KerasClassifier(self._weights, runtime=config.runtime, batch=config.batch)
        from labkit.text.rnn_torch import RnnTwin  # here, for a process of Keras holds no torch

        return RnnTwin(self._weights, is_folded=config.is_folded, precision=config.precision, device=self.device)
