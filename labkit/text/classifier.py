"""TextClassifier: an RNN that sorts texts into topics, as a System; and the seed of it all, `create_rnn_model`."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from labkit.bench.loadgen import load_of
from labkit.core.cost import Cost
from labkit.core.errors import UsageError
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Request, Workload, WorkloadSpec
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


@dataclass(frozen=True)
class Prepared:
    """A Workload whose texts are rows of ids, [requests, words]."""

    workload: Workload
    ids: Ids


class TextClassifier:
    """Texts in, the number of a topic out: one output a request, in batches of what waits.

    Args:
        trained: weights, vocabulary and topics.
        config: how to compute.
        device: "cpu", or "cuda" for the torch twin.
        test: labelled texts that quality is measured on.
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

    def prepare(self, workload: Workload) -> Prepared:
        """Turn texts into rows of ids, all as long as the longest; see `System`."""
        lengths = [self.trained.length if one.prompt_tokens is None else one.prompt_tokens for one in workload.requests]
        rows = [self._row(request, max(lengths)) for request in workload.requests]
        return Prepared(workload, np.concatenate(rows))

    def relocate(self) -> None:
        """Nothing: the weights that a text reads are scattered over the table anyway."""

    def drop_caches(self) -> None:
        """Nothing: no request leaves anything behind."""

    def serve(self, prepared: Prepared) -> Trace:
        """Answer the requests in order of arrival; the clock runs from the call."""
        start_ns = time.perf_counter_ns()
        traces: dict[int, RequestTrace] = {}
        for batch in self._batches(prepared.workload, start_ns):
            scheduled_s = (time.perf_counter_ns() - start_ns) * 1e-9
            rows = prepared.ids[[index for index, _, _ in batch]]
            answers = self._computing.probabilities(rows).argmax(1).tolist()
            done_s = (time.perf_counter_ns() - start_ns) * 1e-9
            for (index, arrival_s, sent_s), answer in zip(batch, answers, strict=True):
                traces[index] = RequestTrace(arrival_s, sent_s, scheduled_s, (done_s,), (answer,), rows.shape[1])
        return Trace(tuple(traces[index] for index in sorted(traces)), (time.perf_counter_ns() - start_ns) * 1e-9)

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

    def cost(self, spec: WorkloadSpec) -> Cost:
        """Nothing: a text reads some kilobytes, and what it takes beyond them is dispatch, which no limit knows."""
        return Cost({})

    def facts(self) -> Mapping[str, Any]:
        """What a Run records of the build."""
        return {
            "weights_bytes": self._computing.weights_bytes,
            "threads": self._computing.threads,
            "notes": self._computing.notes,
        }

    def close(self) -> None:
        """Nothing: weights go with the System."""

    def _built(self) -> Computing:
        config = self.config
        if config.runtime != "torch":
            return KerasClassifier(self._weights, runtime=config.runtime, batch=config.batch)
        from labkit.text.rnn_torch import RnnTwin  # here, for a process of Keras holds no torch

        return RnnTwin(self._weights, is_folded=config.is_folded, precision=config.precision, device=self.device)

    def _row(self, request: Request, length: int) -> Ids:
        """[1, length]: the first words of a request, or the ids it brings."""
        words = length if request.prompt_tokens is None else request.prompt_tokens
        row = np.zeros((1, length), dtype=np.int32)
        if isinstance(request.prompt, str):
            row[:, :words] = self.trained.vocabulary.encode([request.prompt], length=words)
        else:
            row[0, : len(request.prompt)] = request.prompt
        return row

    def _batches(self, workload: Workload, start_ns: int) -> Iterator[list[tuple[int, float, float]]]:
        """(index, arrival_s, sent_s) of the requests of each batch: what waits when the one before is done."""
        num_left, waiting = len(workload.requests), list[tuple[int, float, float]]()
        load = load_of(workload.scenario, workload.requests, concurrency=workload.concurrency, start_ns=start_ns)
        with load:
            while num_left:
                waiting += [(index, load.arrival_s(index), sent_s) for index, sent_s in load.due()]
                if not waiting:
                    load.wait(timeout=1.0)
                    continue
                batch, waiting = waiting[: self.config.batch], waiting[self.config.batch :]
                num_left -= len(batch)
                yield batch
                done_s = (time.perf_counter_ns() - start_ns) * 1e-9
                for index, _, _ in batch:
                    load.done(index, done_s)
