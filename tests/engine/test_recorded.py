"""A decoding step as one call: the same logits and stored keys as operation by operation, and never a stale one."""

from pathlib import Path

import pytest
import torch

from labkit.core.workload import WorkloadSpec
from labkit.engine.cost import LAUNCHES_OUTSIDE, REPLAYED_LAUNCHES_OUTSIDE, VERIFY_LAUNCHES_PER_LAYER
from labkit.engine.engine import Engine
from labkit.engine.executor import LocalExecutor
from labkit.engine.recorded import RecordedStep, can_record
from labkit.engine.sequence import Sequence
from labkit.model.choice import Choice
from labkit.model.factored import LowRank
from labkit.model.linear import KernelLayer
from labkit.model.native import build
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from tests.conftest import write_tiny_model
from tests.engine.conftest import MakeEngine

RECIPES = (
    "kv_cache",
    "kv_cache + precision",
    "kv_cache(dtype='int8') + precision",
    "kv_cache + precision + quantize",
    "kv_cache + precision + quantize(activations='int8')",
    "kv_cache + precision + quantize(bits=4, group_size=32)",
    "kv_cache + precision + quantize(bits=4, group_size=32, activations='int8')",
    "kv_cache + prune(sparsity=0.3, pattern='channel')",
)


@pytest.fixture(autouse=True)
def native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are usable, the probe finds a native one fastest."""
    if not build.native().compiler:
        pytest.skip(build.native().reason)

    def choose(shape: object, candidates: dict[str, object], layers: object, rows: int) -> Choice:
        native = [name for name in candidates if name.startswith("native_")]
        return Choice((native or list(candidates))[0], 1e-6, rows)

    monkeypatch.setattr("labkit.model.linear.choose", choose)


def served(engine: Engine, *, batch: int = 1, new_tokens: int = 12, index: int = 0) -> list[tuple[int, ...]]:
    spec = WorkloadSpec("recorded", "offline", prompt_tokens=9, new_tokens=new_tokens, num_requests=batch)
    trace = engine.serve(engine.prepare(spec.draw(index)))
    return [request.output_ids for request in trace.requests]


def recorded(engine: Engine) -> dict[int, RecordedStep]:
    assert isinstance(engine.executor, LocalExecutor)
    return engine.executor._recorded


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_computes_what_the_model_computes_bit_for_bit(make_engine: MakeEngine, recipe: str, batch: int) -> None:
    engine = make_engine(f"{recipe} + static_batching(size={batch})")
    served(engine, batch=batch)
    assert set(recorded(engine)) == {batch}
    one_call, stored = both_ways(engine, batch)
    assert torch.equal(*one_call)
    assert all(torch.equal(*parts) for parts in stored)


@pytest.mark.parametrize(
    ("recipe", "tolerance"), [("low_rank(energy=0.3)", 1e-5), ("low_rank(energy=0.3) + precision + quantize", 0.05)]
)
def test_factors_of_low_rank_are_part_of_it_where_one_sequence_decodes(
    make_engine: MakeEngine, recipe: str, tolerance: float
) -> None:
    engine, several = make_engine(f"kv_cache + {recipe}"), make_engine(f"kv_cache + {recipe} + static_batching(size=3)")
    assert any(isinstance(module, LowRank) for module in engine.model.modules())
    served(engine)
    assert set(recorded(engine)) == {1}
    logits, stored = both_ways(engine, 1)
    for ways in (logits, *stored):  # the model multiplies by the gates in an operation of its own, and rounds between
        torch.testing.assert_close(*ways, rtol=tolerance, atol=tolerance)
    served(several, batch=3)
    assert recorded(several) == {}


def both_ways(engine: Engine, batch: int) -> tuple[tuple[torch.Tensor, ...], list[tuple[torch.Tensor, ...]]]:
    """Logits by one call and by the model, for sequences of unequal length, and all parts of the cache after each."""
    assert engine.cache is not None
    sequences = [Sequence(index, [index + 1] * (5 + 3 * index), 4, 0.0) for index in range(batch)]
    engine.cache.admit(sequences)
    for sequence in sequences:
        sequence.num_cached = sequence.num_tokens - 1
    before = [part.clone() for parts in engine.cache.layers for part in parts]
    results, after = [], []
    tokens = [sequence.uncached[0] for sequence in sequences]
    with torch.inference_mode():
        for way in ("one call", "model"):
            for part, old in zip((part for parts in engine.cache.layers for part in parts), before, strict=True):
                part.copy_(old)
            view = engine.cache.view(sequences, 1)
            if way == "model":
                results.append(engine.model(torch.tensor(tokens)[:, None], store=view, last=torch.zeros(batch).long()))
            else:
                results.append(recorded(engine)[batch](tokens, view))
            after.append([part.clone() for parts in engine.cache.layers for part in parts])
    assert not all(torch.equal(part, old) for part, old in zip(after[0], before, strict=True))
    return tuple(results), list(zip(*after, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
        {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False},
        {"architectures": ["MistralForCausalLM"], "sliding_window": 6},
    ],
)
def test_norms_of_heads_biases_and_windows_are_part_of_it(tmp_path: Path, changes: dict[str, object]) -> None:
    write_tiny_model(tmp_path, **changes)
    bound = bind("kv_cache + precision + static_batching(size=2)")
    engine = build_engine(bound, model=str(tmp_path), device="cpu", cache_folder=tmp_path)
    served(engine, batch=2)
    logits, stored = both_ways(engine, 2)
    assert torch.equal(*logits)
    assert all(torch.equal(*parts) for parts in stored)


def test_weights_that_moved_and_a_cache_that_grew_are_recorded_anew(make_engine: MakeEngine) -> None:
    engine, fresh = make_engine("kv_cache + precision + quantize"), make_engine("kv_cache + precision + quantize")
    served(engine)
    first = recorded(engine)[1]
    assert first.is_current
    engine.relocate()
    assert not first.is_current
    assert served(engine) == served(fresh)
    second = recorded(engine)[1]
    assert second is not first
    assert served(engine, new_tokens=150) == served(fresh, new_tokens=150)
    assert not second.is_current
    assert recorded(engine)[1].is_current


def test_logits_of_one_step_outlive_the_next(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache")
    served(engine)
    assert engine.cache is not None
    sequence = Sequence(0, [1, 2, 3], 4, 0.0)
    engine.cache.admit([sequence])
    with torch.inference_mode():
        engine.executor.execute([sequence])
        steps = []
        for _ in range(3):
            sequence.num_cached = 2
            steps.append(engine.executor.execute([sequence]))
    assert len({logits.data_ptr() for logits in steps}) == 3
    assert torch.equal(steps[0], steps[2])


def test_what_is_not_native_goes_operation_by_operation(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + precision(dtype='fp16')")
    served(engine)
    assert engine.cache is not None
    assert not can_record(engine.model, engine.cache, 1)
    assert not recorded(engine)


def test_a_kernel_of_torch_that_wins_keeps_the_step_as_it_is(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.model.linear.choose", lambda *arguments: Choice("torch", 1e-6, arguments[-1]))
    engine = make_engine("kv_cache")
    served(engine)
    assert not recorded(engine)
    assert all(not layer.kernels[1].native for layer in engine.model.modules() if isinstance(layer, KernelLayer))


def test_a_draft_model_replays_its_steps_and_its_cost_starts_no_operations(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + precision + speculative(draft='half', num_tokens=3)")
    served(engine, new_tokens=30)
    spec = WorkloadSpec("recorded", "offline", prompt_tokens=9, new_tokens=30, num_requests=1)
    phases = engine.cost(spec).phases
    assert engine.decoding.executors[0].is_replayed
    assert phases["draft"].kernel_launches == REPLAYED_LAUNCHES_OUTSIDE
    assert phases["draft prefill"].kernel_launches > phases["draft"].kernel_launches


def test_steps_without_a_draft_start_as_few_operations_as_without_speculation(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + precision + speculative(draft='ngram')")
    for index in range(3):
        served(engine, new_tokens=30, index=index)
    assert engine.executor.is_replayed
    spec = WorkloadSpec("recorded", "offline", prompt_tokens=9, new_tokens=30, num_requests=1)
    shapes = engine.executor.shapes["decode"]
    verified = sum(count for shape, count in shapes.items() if shape.new > 1) / shapes.total()
    assert 0 < verified < 1
    launches = verified * VERIFY_LAUNCHES_PER_LAYER * engine.model.config.num_layers + LAUNCHES_OUTSIDE
    assert engine.cost(spec).phases["decode"].kernel_launches == pytest.approx(launches)
