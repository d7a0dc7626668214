"""A model between processes says what it says alone, whatever was done to its weights, and what it costs is counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from labkit.core.errors import Unavailable, UsageError
from labkit.core.workload import WorkloadSpec
from labkit.engine.engine import Engine
from labkit.engine.ranks import ranks
from labkit.engine.split import parts
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from labkit.optimizations.ranks import RANK_COMMAND
from tests.conftest import write_tiny_model

SPEC = WorkloadSpec("split", "offline", prompt_tokens=20, new_tokens=6, num_requests=5)
TENSOR, PIPELINE = "tensor_parallel", "pipeline_parallel(microbatches=3)"

Served = list[tuple[int, ...]]


@pytest.fixture(scope="module", autouse=True)
def two_ranks() -> Iterator[None]:
    """Another rank for all models of this file, one after another; it takes seconds to start."""
    with ranks(2, RANK_COMMAND):
        yield


@contextmanager
def engine_of(recipe: str, model: str, folder: Path) -> Iterator[Engine]:
    engine = build_engine(bind(recipe), model=model, device="cpu", cache_folder=folder)
    yield engine
    engine.close()


def served(recipe: str, model: str, folder: Path) -> Served:
    with engine_of(recipe, model, folder) as engine:
        engine.serve(engine.prepare(SPEC.draw(1)))
        engine.relocate()  # weights of all ranks
        trace = engine.serve(engine.prepare(SPEC.draw(0)))
    return [request.output_ids for request in trace.requests]


@pytest.mark.parametrize("way", [TENSOR, PIPELINE])
@pytest.mark.parametrize("rest", ["", "kv_cache + static_batching(size=4)", "kv_cache + speculative"])
def test_a_split_model_says_what_it_says_alone(way: str, rest: str, tiny_model: str, tmp_path: Path) -> None:
    split = f"{way} + {rest}" if rest else way
    assert served(split, tiny_model, tmp_path) == served(rest, tiny_model, tmp_path)


@pytest.mark.parametrize("way", [TENSOR, PIPELINE])
@pytest.mark.parametrize(
    "weights",
    [
        "prune(pattern='unstructured')",
        "prune(sparsity=0.5)",
        "low_rank(energy=0.3)",
        "quantize(bits=8) + precision(dtype='fp32')",
        "quantize(bits=4) + precision(dtype='fp32')",
        "low_rank(energy=0.3) + quantize + precision(dtype='fp32')",
    ],
)
def test_what_was_done_to_the_weights_is_split_too(way: str, weights: str, tiny_model: str, tmp_path: Path) -> None:
    recipes = (f"{weights} + kv_cache + {way}", f"{weights} + kv_cache")
    with engine_of(recipes[0], tiny_model, tmp_path) as split:
        logits = split.executor.compute(torch.arange(40)[None])
        sizes = split.cost(SPEC)
    with engine_of(recipes[1], tiny_model, tmp_path) as whole, torch.inference_mode():
        expected = whole.executor.compute(torch.arange(40)[None])
        assert sizes.phases.keys() == whole.cost(SPEC).phases.keys()
    error = (logits - expected).abs().max() / expected.abs().max()
    assert error < 0.02  # kernels of integers round activations to 16 bits


@pytest.mark.parametrize(
    "sizes", [{"intermediate_size": 100, "vocab_size": 321}, {"tie_word_embeddings": False, "num_hidden_layers": 3}]
)
@pytest.mark.parametrize("way", [TENSOR, PIPELINE])
def test_neurons_words_and_layers_that_do_not_divide_are_shared_unevenly(
    way: str, sizes: dict[str, int], tmp_path: Path
) -> None:
    write_tiny_model(tmp_path, **sizes)
    assert served(f"kv_cache + {way}", str(tmp_path), tmp_path) == served("kv_cache", str(tmp_path), tmp_path)


def test_messages_and_waiting_are_counted(tiny_model: str, tmp_path: Path) -> None:
    for way in (TENSOR, PIPELINE):
        with engine_of(f"kv_cache + static_batching + {way}", tiny_model, tmp_path) as engine:
            trace = engine.serve(engine.prepare(SPEC.draw(0)))
            facts = engine.facts()
        assert 0 < trace.counters["communication_s"] < trace.duration_s
        assert ("bubble_s" in trace.counters) == (way == PIPELINE)
        assert trace.counters.get("bubble_s", 0.0) < trace.duration_s
        assert facts["rank_threads"] == [1, 1] or max(facts["rank_threads"]) <= torch.get_num_threads()
        assert facts["weights_bytes"] == sum(facts["rank_weights_bytes"].values())
        assert facts["link"]["latency_s"] > 0


def test_bytes_sent_are_those_that_the_cost_foretells(tiny_model: str, tmp_path: Path) -> None:
    with engine_of("kv_cache + static_batching + tensor_parallel", tiny_model, tmp_path) as engine:
        sent = engine.serve(engine.prepare(SPEC.draw(0))).counters["communication_bytes"]
        phases = engine.cost(SPEC).phases.values()
    words = 8 * 256 / 2 * (1 + sum(phase.num_steps for phase in phases))  # what is to be done, told by one of two ranks
    foretold = sum(phase.num_steps * phase.communication_bytes for phase in phases)
    assert sent == pytest.approx(foretold + words, rel=0.02)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("tensor_parallel(num=5, oversubscribe=True)", "has 4 query heads to share; allowed: num up to 4"),
        ("pipeline_parallel(num=3, oversubscribe=True)", "has 2 layers to share; allowed: num up to 2"),
        ("kv_cache + speculative(draft='half') + tensor_parallel", "allowed: draft='ngram', or another model"),
    ],
)
def test_a_split_that_the_model_cannot_take_is_refused_from_its_sizes(
    recipe: str, reason: str, tiny_model: str
) -> None:
    from labkit.engine.cost import DecoderCost
    from labkit.model.source import sizes_of

    sizes = sizes_of(tiny_model)
    assert sizes is not None
    with pytest.raises(UsageError, match=reason):
        bind(recipe).cost(DecoderCost.baseline(sizes, SPEC))


def test_more_ranks_than_cores_are_refused_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.optimizations.ranks.usable_cores", lambda: 2)
    with pytest.raises(Unavailable, match="needs 3 cores: this process may use 2; allowed: num up to that many, or"):
        bind("tensor_parallel(num=3)")
    assert bind("tensor_parallel(num=3, oversubscribe=True)")


def test_a_batch_is_cut_into_even_parts() -> None:
    assert parts([1, 2, 3, 4, 5], 3) == [[1, 2], [3, 4], [5]]
    assert parts([1, 2], 4) == [[1], [2]]
