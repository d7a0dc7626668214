"""The Systems of texts beside the engine: what a worker needs to know to open one. One entry each.

A System of texts is a `bench.answering.Answering`: it answers each request of a workload by one id, of a corpus that
takes the place of the model. Its techniques name it in `systems` and change its settings in `settle`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.core.errors import UsageError
from labkit.core.recipe import Recipe
from labkit.core.workload import WORKLOADS

if TYPE_CHECKING:
    from labkit.bench.answering import Answering
    from labkit.core.recipe import Step
    from labkit.optimizations import Bound
    from labkit.text.classifier import ClassifierSettings
    from labkit.text.corpus import Corpus

ENGINE = "engine"

_PEER_BATCH = 64  # what rnn_batching has by default


@dataclass(frozen=True)
class TextSystem:
    """How one kind of System is opened.

    Attributes:
        framework: what a worker of a recipe imports before its clock runs, and measures alone.
        build: the System of a bound recipe, a corpus and a device.
        held_bytes: memory that it will hold, foretold from the corpus.
        workload: what it is measured on unless something else is asked for.
        recipes: what it is measured with unless others are.
        peer: another project's System for the same, by name and knobs; see `peers`.
        peer_framework: what its worker imports.
        peers: those that `labkit peers` measures, in the text form of a recipe; ratios are stated against the first.
        beside: recipes of ours that it sets beside them.
    """

    framework: "Callable[[Bound], str]"
    build: "Callable[[Bound, Corpus, str], Answering]"
    held_bytes: "Callable[[Bound, Corpus], int]"
    workload: str
    recipes: tuple[str, ...]
    peer: "Callable[[Step, Corpus], Answering]"
    peer_framework: "Callable[[Step], str]"
    peers: tuple[str, ...]
    beside: tuple[str, ...]


def _similarity(bound: "Bound", corpus: "Corpus", device: str) -> "Answering":
    from labkit.text.similarity import Settings
    from labkit.text.similarity_system import SimilaritySystem

    return SimilaritySystem.build(corpus, bound.settings(Settings()), device=device)


def _similarity_bytes(bound: "Bound", corpus: "Corpus") -> int:
    from labkit.text.similarity import Settings, forecast_bytes

    return forecast_bytes(corpus, bound.settings(Settings()))


def _similarity_peer(step: "Step", corpus: "Corpus") -> "Answering":
    from labkit.peers.similarity import Task, open_similarity_peer
    from labkit.text.similarity_system import NEIGHBOURS, judged, parts
    from labkit.text.words import terms

    indexed, queries = parts(corpus)
    task = Task(
        indexed.texts, queries.texts, terms, lambda effort, find: judged(indexed, queries, effort, find), NEIGHBOURS
    )
    return open_similarity_peer(step.name, task, dict(step.knobs))


def _classifier_framework(bound: "Bound") -> str:
    from labkit.text.classifier import ClassifierSettings

    return bound.settings(ClassifierSettings()).framework


def _classifier(bound: "Bound", corpus: "Corpus", device: str) -> "Answering":
    from labkit.text.classifier import ClassifierSettings, TextClassifier

    return TextClassifier.build(corpus, bound.settings(ClassifierSettings()), device=device)


def _classifier_bytes(bound: "Bound", corpus: "Corpus") -> int:
    from labkit.text.classifier import ClassifierSettings, forecast_bytes

    return forecast_bytes(corpus, bound.settings(ClassifierSettings()))


def _classifier_peer(step: "Step", corpus: "Corpus") -> "Answering":
    from labkit.text.classifier import TextClassifier

    return TextClassifier.build(corpus, _peer_settings(step))


def _peer_settings(step: "Step") -> "ClassifierSettings":
    """A peer is the same RNN, called as its framework has it; what waits is answered together."""
    from labkit.text.classifier import ClassifierSettings

    peers = TEXT_SYSTEMS["classifier"].peers
    if step.name not in peers:
        raise UsageError.unknown("peer of text classification", step.name, peers)
    if step.knobs:
        raise UsageError(f"peer {step.name!r} was given {step.text!r}; it has no options")
    return ClassifierSettings(runtime=step.name, batch_size=_PEER_BATCH)


TEXT_SYSTEMS: Mapping[str, TextSystem] = {
    "similarity": TextSystem(
        framework=lambda bound: "torch",
        build=_similarity,
        held_bytes=_similarity_bytes,
        workload="queries",
        recipes=(
            "",
            "truncated_svd",
            "truncated_svd + vector_precision(dtype='fp16')",
            "truncated_svd + vector_precision(dtype='int8')",
        ),
        peer=_similarity_peer,
        peer_framework=lambda step: "torch",
        peers=("sklearn_cosine", "sklearn_linear", "gensim_lsi"),
        beside=("truncated_svd", "truncated_svd + vector_precision(dtype='int8')"),
    ),
    "classifier": TextSystem(
        framework=_classifier_framework,
        build=_classifier,
        held_bytes=_classifier_bytes,
        workload="queries",
        recipes=(
            "",
            "rnn_runtime(kind='tf_function')",
            "rnn_runtime(kind='xla')",
            "rnn_runtime",
            "rnn_runtime + fold_embedding",
        ),
        peer=_classifier_peer,
        peer_framework=lambda step: _peer_settings(step).framework,
        peers=("keras_predict", "keras_call", "tf_function", "xla", "torch_layer"),
        beside=("rnn_runtime + rnn_batching", "rnn_runtime + fold_embedding + rnn_batching"),
    ),
}
"""By the name that `Plan.system`, `Lab(system=…)` and `labkit bench --system` take; the engine is the default there."""

SYSTEMS: tuple[str, ...] = (ENGINE, *TEXT_SYSTEMS)

DEFAULT_MODEL: Mapping[str, str] = {ENGINE: "pylm", **dict.fromkeys(TEXT_SYSTEMS, "stdlib")}
"""What is measured unless something else is asked for: a model, or a corpus (see `text.corpus.open_corpus`)."""

DEFAULT_WORKLOAD: Mapping[str, str] = {ENGINE: "chat", **{name: kind.workload for name, kind in TEXT_SYSTEMS.items()}}

DEFAULT_RECIPES: Mapping[str, tuple[str, ...]] = {
    ENGINE: ("", "kv_cache"),
    **{name: kind.recipes for name, kind in TEXT_SYSTEMS.items()},
}


def workloads(system: str) -> tuple[str, ...]:
    """Names of the workloads that are made for a System: one output a request for texts, tokens for the engine."""
    return tuple(
        name
        for name, spec in WORKLOADS.items()
        if (spec.new_tokens == 1) is (system != ENGINE) and (system == "similarity" or not spec.is_vectorized)
    )


def check_system(name: str) -> str:
    """The name, where there is such a System.

    Raises:
        UsageError: there is none.
    """
    if name not in SYSTEMS:
        raise UsageError.unknown("system", name, SYSTEMS)
    return name


def corpus_facts(name: str, system: str) -> dict[str, Any]:
    """What a Run records of a corpus in place of a model; two Runs compare where the hash is the same.

    Raises:
        UsageError: the corpus cannot be read.
    """
    from labkit.text.corpus import open_corpus

    corpus = open_corpus(name)
    return {
        "name": name,
        "system": system,
        "hash": corpus.hash[:16],
        "num_texts": len(corpus),
        "num_topics": len(corpus.topics),
        "source": "docstrings of the standard library" if name == "stdlib" else "a file",
    }


def framework(system: str, recipe: Recipe, *, is_peer: bool = False) -> str:
    """The module that a System computes with under a recipe, or a peer of it; to import it takes seconds."""
    from labkit.optimizations import bind

    if system == ENGINE:
        return "torch"
    kind = TEXT_SYSTEMS[system]
    return kind.peer_framework(recipe.steps[0]) if is_peer else kind.framework(bind(recipe, system=system))
