"""A step whose shapes are fixed says what any other says; on a GPU it is one CUDA graph."""

from collections.abc import Callable, Iterator
from pathlib import Path
from weakref import ReferenceType, ref

import pytest
import torch
import torch._dynamo
from torch import Tensor

from labkit.core.workload import WorkloadSpec
from labkit.engine import executor
from labkit.engine.compiled import CompiledBlock
from labkit.engine.engine import Engine
from labkit.engine.graphed import batch_bucket, can_graph, length_bucket
from labkit.model.native import build
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from labkit.optimizations.compile import Compile
from tests.conftest import write_tiny_model

on_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or bool(Compile.needs[0].missing()), reason="needs a CUDA device and a C++ compiler"
)


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    torch._dynamo.reset()
    with bind("compile").process():
        yield


def served(engine: Engine, *, batch: int = 1, prompt: int = 9, new: int = 6, seed: int = 0) -> list[tuple[int, ...]]:
    spec = WorkloadSpec("graphed", "offline", prompt_tokens=prompt, new_tokens=new, num_requests=batch)
    return [request.output_ids for request in engine.serve(engine.prepare(spec.draw(seed))).requests]


def test_a_batch_and_a_length_have_a_bucket_each() -> None:
    assert [batch_bucket(batch) for batch in (1, 2, 3, 4, 5, 17)] == [1, 2, 4, 4, 8, 32]
    assert [length_bucket(length) for length in (1, 128, 129, 256, 1025)] == [128, 128, 256, 256, 2048]


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Tensor]]:
    """Has every step of any model taken by a GraphedStep, which computes it anew; holds what was captured.

    As memory that CUDA graphs share, the stand-in is of no more use once all that it captured is gone.
    """
    captured: list[Callable[[], Tensor]] = []

    class Shared:
        def __init__(self) -> None:
            self.alive: list[ReferenceType[Callable[[], Tensor]]] = []

        def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
            assert not self.alive or any(replay() is not None for replay in self.alive)
            compute()

            def replay() -> Tensor:
                return compute()

            captured.append(compute)
            self.alive.append(ref(replay))
            return replay

    monkeypatch.setattr(build, "native", lambda: build.Native(None, "", "switched off"))
    monkeypatch.setattr(executor, "can_graph", lambda *_, **__: True)
    monkeypatch.setattr(executor, "CudaGraphs", Shared)
    return captured


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("kv_cache", {}),
        ("kv_cache(dtype='int8', block_size=8)", {}),
        ("kv_cache", {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32}),
        ("kv_cache", {"architectures": ["MistralForCausalLM"], "sliding_window": 6}),
        ("kv_cache + speculative(draft='half')", {}),
        ("kv_cache + prefix_cache", {}),
    ],
)
@pytest.mark.parametrize("batching", ["static_batching(size=5)", "continuous_batching(max_batch=5)"])
def test_a_step_of_fixed_shape_says_what_any_other_says(
    recipe: str,
    changes: dict[str, object],
    batching: str,
    tmp_path: Path,
    graphed: list[Callable[[], Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tiny_model(tmp_path, **changes)
    engine = build_engine(bind(f"{recipe} + {batching}"), model=str(tmp_path), device="cpu", cache_folder=tmp_path)
    loads = [
        {"batch": batch, "prompt": prompt, "new": new} for batch, prompt, new in ((1, 9, 6), (3, 100, 60), (7, 20, 9))
    ]
    found = [served(engine, **load) for load in loads]
    assert graphed
    assert any(one.is_replayed for one in (engine.executor, *engine.decoding.executors))
    assert [served(engine, **load) for load in loads] == found
    monkeypatch.setattr(executor, "can_graph", lambda *_, **__: False)
    plain = build_engine(bind(f"{recipe} + {batching}"), model=str(tmp_path), device="cpu", cache_folder=tmp_path)
    assert [served(plain, **load) for load in loads] == found


def test_a_graph_is_made_once_for_a_bucket_and_again_where_the_cache_or_weights_moved(
    tiny_model: str, tmp_path: Path, graphed: list[Callable[[], Tensor]]
) -> None:
    engine = build_engine(bind("kv_cache"), model=tiny_model, device="cpu", cache_folder=tmp_path)
    served(engine, new=40)
    served(engine, new=50, seed=1)
    before = len(graphed)
    served(engine, new=50, seed=2)
    assert len(graphed) == before
    served(engine, new=150)  # a longer bucket, and a cache that had to grow
    grown = len(graphed)
    assert grown > before
    engine.relocate()
    served(engine, new=40)
    assert len(graphed) == grown + 1


def test_a_batch_is_filled_up_with_copies_of_its_first_sequence(
    tiny_model: str, tmp_path: Path, graphed: list[Callable[[], Tensor]]
) -> None:
    engine = build_engine(
        bind("kv_cache + static_batching(size=3)"), model=tiny_model, device="cpu", cache_folder=tmp_path
    )
    cache = engine.cache
    assert cache is not None
    served(engine, batch=3, new=8)
    assert isinstance(engine.executor, executor.LocalExecutor)
    (key,) = engine.executor._graphed
    step = engine.executor._graphed[key]
    assert step.batch == 4
    assert torch.equal(step._inputs[3], step._inputs[0])


def test_graphs_are_for_compiled_blocks_on_a_gpu(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode, is_asked_for in (("default", False), ("reduce-overhead", True), ("max-autotune", True)):
        engine = build_engine(
            bind(f"kv_cache + compile(mode='{mode}')"), model=tiny_model, device="cpu", cache_folder=tmp_path
        )
        first = engine.model.layers[0]
        assert isinstance(first, CompiledBlock)
        assert first.is_graphed is is_asked_for
        cache = engine.cache
        assert cache is not None
        assert not can_graph(engine.model, cache, batch=1, length=9)
        monkeypatch.setattr(cache, "device", "cuda")
        assert can_graph(engine.model, cache, batch=1, length=9) is is_asked_for
        assert not can_graph(engine.model, cache, batch=2**20, length=9)  # too much to gather
        first.register_forward_pre_hook(lambda *_: None)
        assert not can_graph(engine.model, cache, batch=1, length=9)


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize(
    "recipe",
    [
        "kv_cache",
        "kv_cache(dtype='int8')",
        "kv_cache + precision",
        "kv_cache + precision + quantize",
        "kv_cache + precision + quantize(bits=4)",
        "kv_cache + precision + quantize(activations='int8')",
        "kv_cache + precision + quantize(format='fp8')",
        "kv_cache + precision + prune(sparsity=0.5, pattern='2:4')",
        "kv_cache + low_rank(energy=0.3)",
        "kv_cache + speculative(draft='half')",
        "kv_cache + prefix_cache",
    ],
)
def test_on_a_gpu_a_graph_says_what_its_kernels_say(recipe: str, tiny_model: str, tmp_path: Path) -> None:
    batching = "continuous_batching(max_batch=3)" if "speculative" not in recipe else "static_batching(size=3)"
    plain, engine = (
        build_engine(
            bind(f"{recipe} + {batching} + compile{mode}"), model=tiny_model, device="cuda", cache_folder=tmp_path
        )
        for mode in ("", "(mode='reduce-overhead')")
    )
    same = num = 0
    for batch, prompt, new in ((1, 9, 40), (3, 20, 140), (5, 60, 9)):
        pairs = zip(
            served(engine, batch=batch, prompt=prompt, new=new),
            served(plain, batch=batch, prompt=prompt, new=new),
            strict=True,
        )
        same, num = same + sum(ours == theirs for ours, theirs in pairs), num + batch
    assert any(one.is_replayed for one in (engine.executor, *engine.decoding.executors))
    assert not any(one.is_replayed for one in (plain.executor, *plain.decoding.executors))
    assert same == num if "precision" not in recipe and "int8" not in recipe else same > num / 2


@pytest.mark.gpu
@on_a_gpu
def test_on_a_gpu_the_parts_of_a_graph_are_timed(tiny_model: str, tmp_path: Path) -> None:
    engine = build_engine(
        bind("kv_cache + precision + compile(mode='reduce-overhead')"),
        model=tiny_model,
        device="cuda",
        cache_folder=tmp_path,
    )
    served(engine, new=30)
    parts = engine.facts()["kernels_by_phase"]["decode"]
    assert 0 < parts["step_s"] < 1e-3
    assert 0 < parts["between_s"] < 1e-3
    assert engine.cost(WorkloadSpec("graphed", "offline", 9, new_tokens=30)).phases["decode"].kernel_launches < 20
