"""Offload with the CPU for a device: the same tokens, whenever copies happen; on a GPU the real thing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from labkit.bench.ceilings import DATASHEETS
from labkit.bench.limit import limit, predict
from labkit.core.errors import UsageError
from labkit.core.workload import WorkloadSpec
from labkit.engine import offload
from labkit.engine.cost import DecoderCost
from labkit.engine.engine import Engine
from labkit.engine.offload import Offload
from labkit.engine.offload_plan import fetches_per_step
from labkit.model.config import ModelConfig
from labkit.model.shapes import SHAPES
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from labkit.optimizations.compile import Compile
from labkit.optimizations.offload import Offload as Technique
from tests.conftest import write_tiny_model

NUM_LAYERS = 7


NEEDS_COMPILER = pytest.mark.skipif(
    bool(Compile.needs[0].missing()), reason=f"a C++ compiler: {Compile.needs[0].missing()}"
)


class EarlyCopies:
    """Copies at once, and spoils a buffer as soon as it is given back."""

    def __init__(self, device: str) -> None:
        self.targets: dict[int, Tensor] = {}
        self.num_fetches = 0

    def pinned(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def fetch(self, buffer: int, target: Tensor, source: Tensor) -> None:
        self.num_fetches += 1
        self.targets[buffer] = target
        target.copy_(source)

    def wait(self, buffer: int) -> None:
        pass

    def release(self, buffer: int) -> None:
        pass


class LateCopies(EarlyCopies):
    """Copies when it has to, and leaves rubbish in a buffer until then."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.pending: dict[int, tuple[Tensor, Tensor]] = {}

    def fetch(self, buffer: int, target: Tensor, source: Tensor) -> None:
        self.num_fetches += 1
        target.fill_(255)
        self.pending[buffer] = target, source

    def wait(self, buffer: int) -> None:
        if buffer in self.pending:
            target, source = self.pending.pop(buffer)
            target.copy_(source)


@pytest.fixture
def deep_model(tmp_path: Path) -> str:
    write_tiny_model(tmp_path, num_hidden_layers=NUM_LAYERS)
    return str(tmp_path)


def make(
    recipe: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    copies: Callable[[str], offload.Copies] = EarlyCopies,
) -> tuple[Engine, Offload]:
    """An engine that offloads to the CPU, and what does it."""
    made: list[Offload] = []

    def on_cpu(num_resident: int, *, device: str) -> Offload:
        assert device == "cuda"
        made.append(Offload(num_resident, device="cpu", copies=copies))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr("labkit.optimizations.offload.Offload.needs", ())
        bound = bind(recipe)
        patch.setattr(offload, "Offload", on_cpu)
        return build_engine(bound, model=model, device="cpu", cache_folder=Path(model)), made[0]


def served(engine: Engine, *, batch: int = 3) -> list[tuple[int, ...]]:
    spec = WorkloadSpec("offload", "offline", prompt_tokens=20, new_tokens=9, num_requests=batch)
    return [request.output_ids for request in engine.serve(engine.prepare(spec.draw(0))).requests]


@pytest.mark.parametrize("copies", [EarlyCopies, LateCopies])
@pytest.mark.parametrize("gpu_layers", [0, 1, 4, 6, NUM_LAYERS])
def test_the_answer_is_that_of_a_model_in_one_place(
    deep_model: str, monkeypatch: pytest.MonkeyPatch, gpu_layers: int, copies: type[EarlyCopies]
) -> None:
    recipe = "kv_cache + static_batching(size=2)"
    plain = build_engine(bind(recipe), model=deep_model, device="cpu", cache_folder=Path(deep_model))
    engine, mechanism = make(f"{recipe} + offload(gpu_layers={gpu_layers})", deep_model, monkeypatch, copies=copies)
    assert served(engine) == served(plain)
    num_fetched = NUM_LAYERS - gpu_layers
    assert len(mechanism.homes) == num_fetched
    steps = engine.num_steps
    if num_fetched:
        assert isinstance(mechanism._copies, EarlyCopies)
        assert abs(mechanism._copies.num_fetches - steps * fetches_per_step(num_fetched)) <= 2


@pytest.mark.parametrize(
    "others",
    [
        "quantize",
        "quantize(bits=4, group_size=32)",
        "precision",
        "prune(sparsity=0.3, pattern='channel')",
        "low_rank(energy=0.3)",
        "speculative",
        "speculative(draft='half')",
        "prefix_cache",
        pytest.param("compile", marks=NEEDS_COMPILER),
    ],
)
def test_it_stands_with_the_other_techniques(deep_model: str, monkeypatch: pytest.MonkeyPatch, others: str) -> None:
    recipe = f"kv_cache + {others}"
    plain = build_engine(bind(recipe), model=deep_model, device="cpu", cache_folder=Path(deep_model))
    engine, mechanism = make(f"{recipe} + offload(gpu_layers=2)", deep_model, monkeypatch, copies=LateCopies)
    assert served(engine) == served(plain)
    assert len(mechanism.homes) == NUM_LAYERS - 2


def test_more_layers_than_there_are_is_refused_in_one_line(deep_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"offload\(gpu_layers=8\) was asked for; the model has 7 layers; allowed: 0"):
        make("offload(gpu_layers=8)", deep_model, monkeypatch)


def test_sparse_weights_that_cannot_be_fetched_are_refused(deep_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="sparse weights in a layout that cannot be fetched"):
        make("prune(sparsity=0.95, pattern='unstructured') + offload", deep_model, monkeypatch)


def test_it_states_how_many_layers_should_stay(deep_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, mechanism = make("kv_cache + offload(gpu_layers=3)", deep_model, monkeypatch)
    layer_bytes = len(mechanism.homes[0])
    assert engine.facts()["offload"] == {"gpu_layers": 3, "fetched_bytes": 4 * layer_bytes}
    best = mechanism.best(DATASHEETS["H100"], cpu_bytes_per_s=2e11, free_bytes=1.5 * layer_bytes)
    assert best is not None
    assert best.num_resident == 4  # six fit: three, two buffers and one more
    assert mechanism.best(DATASHEETS["H100"], cpu_bytes_per_s=2e11, free_bytes=1e12).num_resident == 5  # type: ignore[union-attr]


def test_what_crosses_the_link_bounds_a_step() -> None:

    spec = WorkloadSpec("offload", "single_stream", prompt_tokens=20, new_tokens=9, num_requests=1)
    plain = DecoderCost.baseline(ModelConfig.from_dict(SHAPES["llama-7b"]), spec)
    cost = Technique(gpu_layers=8).cost(plain)
    roof = replace(DATASHEETS["RTX 4090"], dispatch_s=1e-5)
    decode = limit(cost.phases(), roof)["decode"]
    assert decode["bound"] == "link"
    assert decode["step_s"] == pytest.approx(24 / 32 * 4 * plain.linear_parameters / 32e9)
    terms = predict(cost.phases(), roof)["decode"]["terms"]
    assert sum(terms.values()) == pytest.approx(decode["seconds"])  # the rest is done meanwhile
    assert cost.held_bytes == pytest.approx(plain.held_bytes - 22 * 4 * plain.linear_parameters / 32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("others", ["", " + precision", " + precision + quantize", " + compile"])
@pytest.mark.parametrize("gpu_layers", [0, 3, NUM_LAYERS])
def test_on_a_gpu_the_answer_is_that_of_a_model_that_fits(deep_model: str, gpu_layers: int, others: str) -> None:
    recipe = f"kv_cache + static_batching(size=2){others}"
    plain, engine = (
        build_engine(bind(text), model=deep_model, device="cuda", cache_folder=Path(deep_model))
        for text in (recipe, f"{recipe} + offload(gpu_layers={gpu_layers})")
    )
    assert served(engine) == served(plain)
    assert served(engine) == served(plain)
    if gpu_layers < NUM_LAYERS:
        assert engine.facts()["offload"]["best_gpu_layers"] <= NUM_LAYERS
