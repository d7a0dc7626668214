"""TrainedRnn: weights with the vocabulary and the topics they were trained for, kept under LABKIT_HOME."""

import fcntl
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from labkit.core.errors import CheckpointError, LabkitError, UsageError
from labkit.core.paths import cache_folder, write_whole
from labkit.model.cells import GATES, Cell
from labkit.text.corpus import Corpus
from labkit.text.rnn_weights import RnnWeights
from labkit.text.vocabulary import Vocabulary

_VERSION = 3  # of the training: what another one left is not read
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Training:
    """How an RNN is trained. Texts are cut to `length` words; a tenth of them tells when to stop."""

    cell: Cell = "simple"
    length: int = 100
    vocabulary: int = 10_000
    embedding: int = 64
    units: int = 64
    seed: int = 0
    max_epochs: int = 24
    patience: int = 5
    batch: int = 64
    learning_rate: float = 2e-3
    dropout: float = 0.4
    word_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.cell not in GATES:
            raise UsageError.unknown("cell of an RNN", self.cell, GATES)

    @classmethod
    def of(cls, cell: str) -> Self:
        """The default training of a cell that somebody names.

        Raises:
            UsageError: there is none of that name.
        """
        return cls(cell=cell)  # type: ignore[arg-type]  # checked as it is made

    def key(self, corpus: Corpus) -> str:
        """Names what this training makes of a corpus."""
        payload = json.dumps([_VERSION, corpus.hash, asdict(self)])
        return f"{self.cell}-{hashlib.sha256(payload.encode()).hexdigest()[:24]}"


@dataclass(frozen=True)
class TrainedRnn:
    """A classifier of texts: what it computes with, the words it knows and the topics it tells apart.

    `key` identifies it.
    """

    weights: RnnWeights
    vocabulary: Vocabulary
    topics: tuple[str, ...]
    length: int
    key: str

    def save(self, path: Path) -> None:
        """Write one safetensors file; whole or not at all."""
        texts = {"words": self.vocabulary.words, "topics": self.topics, "length": self.length, "key": self.key}
        write_whole(path, lambda to: self.weights.save(to, **{name: json.dumps(text) for name, text in texts.items()}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote.

        Raises:
            CheckpointError: the file is none of these.
        """
        weights, metadata = RnnWeights.load(path)
        try:
            words, topics, length, key = (json.loads(metadata[name]) for name in ("words", "topics", "length", "key"))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"weights {str(path)!r} lack {error}; remedy: delete the file") from None
        return cls(weights, Vocabulary(tuple(words)), tuple(topics), length, key)


def trained(corpus: Corpus, training: Training) -> TrainedRnn:
    """The RNN that this training makes of these texts: read from the cache, or trained now by another process.

    So a process that computes with TensorFlow never holds torch beside it.

    Raises:
        UsageError: the texts are of one class, or there are none.
    """
    if len(corpus.topics) < 2:
        seen = f"all are of class {corpus.topics[0]!r}" if corpus.topics else "there is none"
        raise UsageError(
            f"a classifier of {len(corpus)} texts was asked for; {seen}; allowed: two classes or more; "
            "remedy: name the column that holds them (--label)"
        )
    path = cache_folder() / "rnn" / f"{training.key(corpus)}.safetensors"
    with _alone(path):
        if not path.exists():
            _train_elsewhere(corpus, training, path)
    return TrainedRnn.load(path)


def _train_elsewhere(corpus: Corpus, training: Training, path: Path) -> None:
    order = {"corpus": asdict(corpus), "training": asdict(training), "path": str(path)}
    command = [sys.executable, "-m", "labkit.text.rnn_training"]
    done = subprocess.run(
        command, input=json.dumps(order), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabkitError(f"training a {training.cell} RNN on {len(corpus)} texts failed: {last}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: workers of several recipes ask for the same weights at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
