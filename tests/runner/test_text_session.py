"""A session of text similarity through real processes: corpus, recipes, quality, Run, comparison."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.bench.comparison import compare
from labkit.core.errors import UsageError
from labkit.core.run import Run
from labkit.core.workload import WORKLOADS, workload
from labkit.lab import Lab
from labkit.runner.plan import Plan
from labkit.runner.session import Session
from labkit.text.corpus import load_corpus
from labkit.ui.tables import results

QUERIES = replace(WORKLOADS["queries"], num_requests=4)


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = load_corpus().take(range(0, 4_000, 20))
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    rows = zip(corpus.texts, corpus.labels, strict=True)
    path.write_text("\n".join(json.dumps({"body": text, "topic": label}) for text, label in rows))
    return path


def measured(path: Path, folder: Path, *recipes: str, spec=QUERIES) -> tuple[Run, ...]:
    plan = Plan(model=f"{path}?text=body&label=topic", spec=spec, recipes=recipes, system="similarity")
    return Session(cache_folder=folder).measure(plan)


def test_recipes_of_a_corpus_are_measured_without_tokens(corpus_file: Path, tmp_path: Path) -> None:
    runs = measured(corpus_file, tmp_path, "", "truncated_svd(rank=16) + vector_precision + threads")
    for run in runs:
        assert (run.status, run.error) == ("done", "")
        assert {fault.code for fault in run.faults} <= {"contended", "drift", "unsteady"}
        assert run.model["system"] == "similarity"
        assert {"requests_per_s", "e2e_s", "e2e_s.p50", "vectorize_share"} <= run.metrics.keys()
        assert not {"output_tok_per_s", "ttft_s", "itl_s.p50", "prefill_tok_per_s"} & run.metrics.keys()
        assert run.build["fit_s"] > 0
        assert {"recall_at_10", "precision_at_10"} == run.quality.keys()
        assert Run.from_json(run.to_json()).to_json() == run.to_json()
    assert runs[0].quality["recall_at_10"] == 1
    assert 0.05 < runs[1].quality["recall_at_10"] < 1
    assert compare(runs).metric == "requests_per_s"
    valid = [replace(run, faults=()) for run in runs]
    titles = {column.title for column in results(valid, compare(valid)).columns}
    assert {"queries/s", "query p50", "vectorizing", "fit", "memory", "recall@10", "precision@10"} <= titles
    assert not {"TTFT", "output tok/s", "decode tok/s"} & titles


def test_queries_that_come_as_vectors_are_not_vectorized(corpus_file: Path, tmp_path: Path) -> None:
    spec = replace(WORKLOADS["vectors"], num_requests=4)
    (run,) = measured(corpus_file, tmp_path, "truncated_svd(rank=16) + query_batching(size=4)", spec=spec)
    assert (run.status, run.error) == ("done", "")
    assert "vectorize_share" not in run.metrics


def test_a_system_has_its_own_defaults_and_techniques(tmp_path: Path) -> None:
    lab = Lab(system="similarity", home=tmp_path)
    assert (lab.model, lab.spec.name) == ("stdlib", "queries")
    assert lab.replace(effort="standard").system == "similarity"
    with pytest.raises(UsageError, match="unknown optimization 'kv_cache'; allowed: threads, truncated_svd"):
        lab.run("kv_cache")
    with pytest.raises(UsageError, match="unknown system 'nonsense'; allowed: engine, similarity"):
        Lab(system="nonsense")


def test_any_workload_asks_for_one_answer_a_request() -> None:
    plan = Plan(model="stdlib", spec=workload("batch"), recipes=("",), system="similarity")
    assert {length.new_tokens for length in plan.spec.lengths} == {1}
    with pytest.raises(UsageError, match="sends vectors; allowed: with the system 'similarity'"):
        Plan(model="pylm", spec=workload("vectors"), recipes=("",))


def test_a_precision_of_vectors_needs_vectors() -> None:
    with pytest.raises(UsageError, match="vector_precision needs truncated_svd in the same recipe; add it"):
        Plan(model="stdlib", spec=QUERIES, recipes=("vector_precision",), system="similarity")


def test_a_rank_above_the_corpus_is_told(corpus_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rank 4096 was asked for"):
        measured(corpus_file, tmp_path, "truncated_svd(rank=4096)")
