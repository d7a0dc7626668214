"""Compiled blocks: what the others compute, compiled once however the batch and the cache grow."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torch._inductor import metrics

from labkit.core.workload import WorkloadSpec
from labkit.engine.compiled import CompiledBlock, compiled_layers
from labkit.engine.engine import Engine
from labkit.engine.recorded import can_record
from labkit.model.native import build
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from labkit.optimizations.compile import Compile
from tests.conftest import write_tiny_model

pytestmark = pytest.mark.skipif(
    bool(Compile.needs[0].missing()), reason=f"a C++ compiler: {Compile.needs[0].missing()}"
)


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """What a worker sets before it builds."""
    torch._dynamo.reset()
    with bind("compile").process():
        yield


def make(recipe: str, model: str, folder: Path) -> Engine:
    return build_engine(bind(recipe), model=model, device="cpu", cache_folder=folder)


def served(engine: Engine, *, batch: int = 1, prompt: int = 9, new: int = 6) -> list[tuple[int, ...]]:
    spec = WorkloadSpec("compiled", "offline", prompt_tokens=prompt, new_tokens=new, num_requests=batch)
    return [request.output_ids for request in engine.serve(engine.prepare(spec.draw(0))).requests]


def num_compiled() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    "recipe",
    [
        "",
        "kv_cache + quantize",
        pytest.param("kv_cache", marks=pytest.mark.slow),
        pytest.param("kv_cache + speculative(draft='half')", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_compiled_again_as_batch_and_cache_grow(recipe: str, tiny_model: str, tmp_path: Path) -> None:
    engine = make(" + ".join(filter(None, (recipe, "static_batching(size=5) + compile"))), tiny_model, tmp_path)
    before = num_compiled()
    served(engine)
    assert num_compiled() == before + 4  # one row and several, before attention and after it
    for batch, prompt, new in ((1, 3, 120), (2, 30, 40), (3, 1, 3), (5, 64, 70), (7, 17, 9)):
        served(engine, batch=batch, prompt=prompt, new=new)
    engine.relocate()
    served(engine, batch=4)
    assert num_compiled() == before + 4


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
        pytest.param({"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False}, marks=pytest.mark.slow),
        pytest.param({"architectures": ["MistralForCausalLM"], "sliding_window": 6}, marks=pytest.mark.slow),
    ],
)
def test_norms_of_heads_biases_and_windows_are_compiled_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object], is_native: bool
) -> None:
    if not is_native:
        monkeypatch.setattr(build, "native", lambda: build.Native(None, "", "switched off"))
    write_tiny_model(tmp_path, **changes)
    plain, engine = (
        make(f"kv_cache + static_batching(size=3){more}", str(tmp_path), tmp_path) for more in ("", " + compile")
    )
    ids = torch.randint(0, 300, (3, 11))
    with torch.inference_mode():
        torch.testing.assert_close(engine.model(ids), plain.model(ids), rtol=1e-4, atol=1e-5)
    assert served(engine, batch=3) == served(plain, batch=3)


@pytest.mark.parametrize(
    ("recipe", "num_in_graph"),
    [
        ("kv_cache", 8),
        ("kv_cache + prune(sparsity=0.3, pattern='channel')", 8),
        ("kv_cache + low_rank(energy=0.3)", 28),
        ("kv_cache + quantize", 0),
        ("kv_cache(dtype='int8') + precision + quantize(bits=4)", 0),
    ],
)
@pytest.mark.parametrize("is_native", [True, False])
def test_products_without_a_rival_are_compiled_and_others_are_called(
    monkeypatch: pytest.MonkeyPatch, recipe: str, num_in_graph: int, tiny_model: str, tmp_path: Path, is_native: bool
) -> None:
    if not is_native:
        monkeypatch.setattr(build, "native", lambda: build.Native(None, "", "switched off"))
        monkeypatch.setattr("labkit.model.choice.CHOICES", {})
    elif build.native().library is None:
        pytest.skip(build.native().reason)
    plain, engine = (make(recipe + more, tiny_model, tmp_path) for more in ("", " + compile"))
    assert all(isinstance(block, CompiledBlock) for block in engine.model.layers)
    assert len(compiled_layers(engine.model)) == (0 if is_native else num_in_graph)
    ids = torch.randint(0, 300, (2, 11))
    with torch.inference_mode():
        expected = plain.model(ids).float()
        error = (engine.model(ids).float() - expected).norm() / expected.norm()
    assert error < (0.02 if plain.model.dtype is torch.bfloat16 else 1e-5)


def test_compiled_steps_are_not_replayed_and_their_parts_are_timed(tiny_model: str, tmp_path: Path) -> None:
    engine = make("kv_cache + compile", tiny_model, tmp_path)
    served(engine)
    assert engine.cache is not None
    assert not engine.executor.is_replayed
    assert not can_record(engine.model, engine.cache, 1)
    for phase in engine.facts()["kernels_by_phase"].values():
        assert phase["step_s"] > 0
        assert phase["between_s"] >= 0


def test_the_cost_model_counts_what_a_compiled_block_starts(tiny_model: str, tmp_path: Path) -> None:
    before = metrics.generated_kernel_count
    engine = make("kv_cache + compile", tiny_model, tmp_path)
    served(engine)
    num_kernels = (metrics.generated_kernel_count - before) / 2  # of one row, and of several
    per_step = num_started(engine, new=8) - num_started(engine, new=7)
    spec = WorkloadSpec("compiled", "offline", prompt_tokens=9, new_tokens=6)
    modelled = engine.cost(spec).phases["decode"].kernel_launches
    assert abs((per_step + len(engine.model.layers) * num_kernels) / modelled - 1) < 0.25


def num_started(engine: Engine, *, new: int) -> int:
    """Operations that no other one started, called products and calls of compiled code."""
    with torch.profiler.profile() as profile:
        served(engine, new=new)
    return sum(
        event.name.startswith(("aten::", "labkit::", "Torch-Compiled"))
        and not (event.cpu_parent and event.cpu_parent.name.startswith(("aten::", "labkit::")))
        for event in profile.events()
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_on_a_gpu_compiled_blocks_answer_as_the_others(mode: str, tiny_model: str, tmp_path: Path) -> None:
    recipe = "kv_cache + static_batching(size=3)"
    plain, engine = (
        build_engine(bind(recipe + more), model=tiny_model, device="cuda", cache_folder=tmp_path)
        for more in ("", f" + compile(mode='{mode}')")
    )
    assert served(engine, batch=3, new=40) == served(plain, batch=3, new=40)
    before = num_compiled()
    assert served(engine, batch=2, new=60) == served(plain, batch=2, new=60)
    assert num_compiled() == before
