"""Probe: what a step's linear layers, and what lies between them, take on this machine.

Layers were timed when their kernels were chosen. What lies between them, norms, rotation, attention and gates, is timed
here in one block, on a scratch cache of one layer: all blocks are alike.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from labkit.bench.limit import Kernels
from labkit.engine.cache import CacheView, KVCache
from labkit.engine.executor import StepShape
from labkit.engine.recorded import RecordedStep
from labkit.engine.sequence import Sequence as Request
from labkit.model.linear import KernelLayer
from labkit.model.transformer import Block, Transformer

_LEAST_S = 0.01  # of repeats
_LEAST_REPEATS = 3


def typical(shapes: Counter[StepShape]) -> StepShape:
    """The median of shapes, each counted as often as it was met; at least one was."""
    ordered = sorted(shapes.elements())
    return ordered[len(ordered) // 2]


def probe(
    model: Transformer, cache: KVCache | None, shape: StepShape, *, is_replayed: bool, emulated: Sequence[str]
) -> Kernels:
    """Time of one step of this shape, and why its layers may exceed the limit. Steps of a token may be replayed."""
    layers = [module for module in model.modules() if isinstance(module, KernelLayer) and module.seconds]
    met = {layer: shape.rows if shape.rows in layer.seconds else min(layer.seconds) for layer in layers}
    has_unpacking = any(layer.kernels[rows].dequantizes for layer, rows in met.items())
    excess = "dequantization" if has_unpacking else "emulation" if emulated else "kernels"
    between_s = _replayed_s if is_replayed and shape.new == 1 else _between_s
    return {
        "step_s": sum(layer.seconds[rows] for layer, rows in met.items()),
        "excess": excess,
        "between_s": between_s(model, cache, shape),
    }


@torch.inference_mode()
def _replayed_s(model: Transformer, cache: KVCache | None, shape: StepShape) -> float:
    """Median time of a recorded step without its layers."""
    view = _store(cache, shape)
    assert view is not None
    view.cache.layers *= len(model.layers)  # all see the one
    step = RecordedStep(model, view.cache, shape.batch, has_products=False)
    step.place(view)
    return _median_s(step.program.run, is_cuda=False)


@torch.inference_mode()
def _between_s(model: Transformer, cache: KVCache | None, shape: StepShape) -> float:
    """Median time of what lies between the layers of one block, times the blocks."""
    block, config = model.layers[0], model.config
    assert isinstance(block, Block)
    attention = block.self_attn
    heads = attention.num_heads + 2 * attention.num_kv_heads
    store = _store(cache, shape)
    like = model.embed_tokens.weight
    x, qkv, gate_up = (
        torch.randn(shape.batch, shape.new, width, dtype=model.dtype, device=like.device)
        for width in (config.hidden_size, heads * attention.head_dim, 2 * config.intermediate_size)
    )
    rotation = model.rotation(store.positions if store is not None else None, shape.new, x)
    mask = model.mask(store, x)

    def between() -> None:
        y = block.input_layernorm(x)
        attention.mix(qkv, rotation, mask, store)
        y = block.post_attention_layernorm(x + y)
        block.mlp.gate(gate_up)
        torch.add(x, y)

    return len(model.layers) * _median_s(between, is_cuda=like.is_cuda)


def _store(cache: KVCache | None, shape: StepShape) -> CacheView | None:
    """A view of a cache of one layer that is otherwise like this one, before a step of that shape."""
    if cache is None:
        return None
    scratch = KVCache(
        replace(cache.config, num_layers=1),
        dtype=cache.dtype,
        compute_dtype=cache.compute_dtype,
        device=cache.device,
        block_size=cache.block_size,
    )
    past = shape.length - shape.new
    requests = [Request(index, [0] * past, shape.new, arrival_s=0.0) for index in range(shape.batch)]
    scratch.admit(requests)
    for request in requests:
        request.num_cached = past
    return scratch.view(requests, shape.new)


def _median_s(work: Callable[[], object], *, is_cuda: bool) -> float:
    times_s: list[float] = []
    work()
    while len(times_s) < _LEAST_REPEATS or sum(times_s) < _LEAST_S:
        start_ns = time.perf_counter_ns()
        work()
        if is_cuda:
            torch.cuda.synchronize()
        times_s.append((time.perf_counter_ns() - start_ns) * 1e-9)
    return statistics.median(times_s)
