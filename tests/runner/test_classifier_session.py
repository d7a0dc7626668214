"""A session of text classification through real processes: Keras and torch, each in its own."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from labkit.core.errors import UsageError
from labkit.core.recipe import Step
from labkit.core.run import Run
from labkit.core.workload import WORKLOADS
from labkit.peers import PACKAGES
from labkit.runner.plan import Plan
from labkit.runner.session import Session
from labkit.runner.systems import TEXT_SYSTEMS
from labkit.runner.target import Order, TargetOpener
from labkit.text.corpus import load_corpus

NEEDS_TENSORFLOW = pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")
QUERIES = replace(WORKLOADS["queries"], num_requests=4)


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = load_corpus().take(range(0, 4_000, 32))
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    rows = zip(corpus.texts, corpus.labels, strict=True)
    path.write_text("\n".join(json.dumps({"body": text, "topic": label}) for text, label in rows))
    return path


def measured(path: Path, folder: Path, *recipes: str) -> tuple[Run, ...]:
    plan = Plan(
        model=f"{path}?text=body&label=topic", spec=QUERIES, recipes=recipes, system="classifier", effort="glance"
    )
    return Session(cache_folder=folder).measure(plan)


@NEEDS_TENSORFLOW
def test_a_process_that_measures_keras_holds_no_torch(corpus_file: Path, tmp_path: Path) -> None:
    runs = measured(corpus_file, tmp_path, "threads", "rnn_runtime + fold_embedding + rnn_batching + threads")
    assert [(run.status, run.error) for run in runs] == [("done", "")] * 2
    assert [run.build["frameworks"] for run in runs] == [["tensorflow"], ["torch"]]
    assert [run.build["threads"] for run in runs] == [1, 1]
    assert [len(run.build["scores"]) for run in runs] == [3, 3]
    for run in runs:
        assert {"accuracy", "macro_f1"} == run.quality.keys()
        assert {"requests_per_s", "e2e_s"} <= run.metrics.keys()
    assert runs[0].quality == runs[1].quality
    answers = [[request.output_ids for request in run.passes[0].trace.requests[:4]] for run in runs]
    assert answers[0] == answers[1]  # the faster one is asked more than these


def test_a_peer_answers_as_we_do(corpus_file: Path, tmp_path: Path) -> None:
    model, traces = f"{corpus_file}?text=body&label=topic", []
    for recipe in ("rnn_runtime + fold_embedding", "peer:torch_layer"):
        order = Order(model, "cpu", recipe, str(tmp_path), system="classifier")
        with TargetOpener().open(order) as target:
            traces.append(target.system.serve(target.system.prepare(QUERIES.answered().draw(0))))
    assert traces[0].checksum == traces[1].checksum


def test_peers_are_the_same_rnn_as_its_framework_has_it() -> None:
    system = TEXT_SYSTEMS["classifier"]
    frameworks = [system.peer_framework(Step(name)) for name in system.peers]
    assert frameworks == ["tensorflow"] * 4 + ["torch"]
    assert PACKAGES.keys() >= set(system.peers)
    with pytest.raises(UsageError, match=r"unknown peer of text classification 'jax'"):
        system.peer_framework(Step("jax"))
    with pytest.raises(UsageError, match="it has no options"):
        system.peer_framework(Step("xla", (("rank", 3),)))


def test_a_fold_without_our_runtime_is_told_before_anything_is_measured(corpus_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fold_embedding needs rnn_runtime"):
        measured(corpus_file, tmp_path, "fold_embedding")


@NEEDS_TENSORFLOW
def test_what_keras_cannot_do_is_told_before_anything_is_measured(corpus_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fold_embedding was asked for beside the runtime xla"):
        measured(corpus_file, tmp_path, "rnn_runtime(kind='xla') + fold_embedding")
