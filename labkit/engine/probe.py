"""Probe: what a step's linear layers, and what lies between them, take on this machine.

Layers were timed when their kernels were chosen. What lies between them, norms, rotation, attention and gates, is timed
here on a scratch cache: in one block, all are alike, or in a whole step where one is replayed. Products that are
compiled together with what lies around them are timed by themselves, and taken from the time of all blocks; so are
those of a GPU, and in a CUDA graph those of a step that is one.
"""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.bench.limit import Kernels
from labkit.engine.cache import KVCache
from labkit.engine.compiled import CompiledBlock, compiled_layers
from labkit.engine.executor import Executor, StepShape
from labkit.engine.graphed import CudaGraphs, GraphedStep, batch_bucket, can_graph, length_bucket
from labkit.engine.recorded import RecordedStep
from labkit.engine.sampler import Sampler
from labkit.engine.sequence import Sequence as Request
from labkit.engine.shard import Shard
from labkit.model.linear import KernelLayer, Linear
from labkit.model.transformer import Block, Transformer

_LEAST_S = 0.01  # of repeats
_LEAST_REPEATS = 3
_MOST_KINDS = 20
_MOST_SCRATCH_BYTES = 2**28


def typical(shapes: Counter[StepShape]) -> StepShape:
    """The median of shapes, each counted as often as it was met; at least one was."""
    ordered = sorted(shapes.elements())
    return ordered[len(ordered) // 2]


def kinds(shapes: Counter[StepShape]) -> dict[StepShape, float]:
    """The typical shape of each kind of step, by sequences and tokens of each, and the share of steps of that kind.

    Where kinds are so many that no few of them stand for all, the typical shape of all steps.
    """
    by_kind: defaultdict[tuple[int, int], Counter[StepShape]] = defaultdict(Counter)
    for shape, count in shapes.items():
        by_kind[shape.new, shape.batch][shape] = count
    if len(by_kind) > _MOST_KINDS:
        return {typical(shapes): 1.0}
    return {typical(alike): alike.total() / shapes.total() for alike in by_kind.values()}


def probe(executor: Executor, shapes: Counter[StepShape], *, sampler: Sampler, emulated: Sequence[str]) -> Kernels:
    """Mean time of one of these steps, and why its layers may exceed the limit.

    Of steps that are replayed, what lies around them counts, too, up to the choice of the next tokens by `sampler`.
    """
    layers = [module for module in executor.model.modules() if isinstance(module, KernelLayer) and module.seconds]
    step_s = between_s = 0.0
    has_unpacking = False
    for shape, share in kinds(shapes).items():
        met = {layer: shape.rows if shape.rows in layer.seconds else min(layer.seconds) for layer in layers}
        has_unpacking |= any(layer.kernels[rows].dequantizes for layer, rows in met.items())
        model, cache = executor.model, executor.cache
        if cache is not None and shape.new == 1 and can_graph(model, cache, batch=shape.batch, length=shape.length):
            products_s, rest_s = _graphed_s(model, cache, shape, sampler)
            step_s += share * products_s
            between_s += share * rest_s
            continue
        step_s += share * sum(layer.seconds[rows] for layer, rows in met.items())
        if isinstance(model.layers[0], CompiledBlock) or _starts_all(model):
            # on a GPU what a block starts from Python takes longer than the same operations in a row
            products_s, rest_s = _blocks_s(model, cache, shape, met)
            step_s += share * products_s
            between_s += share * rest_s
        elif cache is not None and executor.is_replayed and shape.new == 1:
            between_s += share * _replayed_s(model, cache, shape, sampler)
        else:
            between_s += share * _between_s(model, cache, shape)
    excess = "dequantization" if has_unpacking else "emulation" if emulated else "kernels"
    return {"step_s": step_s, "excess": excess, "between_s": between_s}


@torch.inference_mode()
def _replayed_s(model: Transformer, cache: KVCache, shape: StepShape, sampler: Sampler) -> float:
    """Median time of a recorded step without its layers, from the view of the cache to the next tokens."""
    scratch, requests = _scratch(cache, shape, num_layers=len(model.layers))
    step = RecordedStep(model, scratch, shape.batch, has_products=False)
    tokens = [0] * shape.batch

    def around() -> None:
        sampler(step(tokens, scratch.view(requests, 1))).tolist()

    return _median_s(around, is_cuda=False)


@torch.inference_mode()
def _between_s(model: Transformer, cache: KVCache | None, shape: StepShape) -> float:
    """Median time of what lies between the layers of one block, times the blocks."""
    block, config = model.layers[0], model.config
    assert isinstance(block, Block)
    attention = block.self_attn
    heads = attention.num_heads + 2 * attention.num_kv_heads
    store = None
    if cache is not None:
        scratch, requests = _scratch(cache, shape, num_layers=1)
        store = scratch.view(requests, shape.new)
    like = model.embed_tokens.weight
    x, qkv, gate_up = (
        torch.randn(shape.batch, shape.new, width, dtype=model.dtype, device=like.device)
        for width in (config.hidden_size, heads * attention.head_dim, 2 * config.intermediate_size)
    )
    rotation = model.rotation(store.positions if store is not None else None, shape.new, x)
    mask = model.mask(store, shape.new)

    def between() -> None:
        y = block.input_layernorm(x)
        attention.mix(qkv, rotation, mask, store)
        y = block.post_attention_layernorm(x + y)
        block.mlp.gate(gate_up)
        torch.add(x, y)

    return len(model.layers) * _median_s(between, is_cuda=like.is_cuda)


@torch.inference_mode()
def _blocks_s(
    model: Transformer, cache: KVCache | None, shape: StepShape, met: Mapping[KernelLayer, int]
) -> tuple[float, float]:
    """What products take that no choice has timed, those in compiled code, say; and what is left of all blocks."""
    untimed = compiled_layers(model)
    products_s = _median_s(_products(model, untimed, shape.rows), is_cuda=model.norm.weight.is_cuda) if untimed else 0.0
    in_blocks = set(model.layers.modules())
    others_s = sum(layer.seconds[rows] for layer, rows in met.items() if layer in in_blocks)
    return products_s, max(0.0, _all_blocks_s(model, cache, shape) - products_s - others_s)


def _starts_all(model: Transformer) -> bool:
    """Whether a GPU's blocks can be run by themselves: no other process has a part in them, no weights are fetched."""
    is_whole = not isinstance(model, Shard) and not any(block._forward_pre_hooks for block in model.layers)
    return is_whole and model.norm.weight.is_cuda


@torch.inference_mode()
def _graphed_s(model: Transformer, cache: KVCache, shape: StepShape, sampler: Sampler) -> tuple[float, float]:
    """What all products of a step take in a CUDA graph of their own, and what is left of the graph of the step."""
    batch = batch_bucket(shape.batch)
    scratch, requests = _scratch(cache, shape, num_layers=len(model.layers))
    capture = CudaGraphs()
    step = GraphedStep(model, scratch, batch, length_bucket(shape.length), capture=capture)
    layers = [module for module in model.modules() if isinstance(module, KernelLayer)]
    inputs = {width: model.norm.weight.new_ones(batch, width) for width in {layer.in_features for layer in layers}}

    def products() -> Tensor:
        outputs: list[Tensor] = [layer(inputs[layer.in_features]) for layer in layers]
        return outputs[-1]

    replay = capture(products)
    tokens, view = [0] * shape.batch, scratch.view(requests, 1)
    products_s = _median_s(replay, is_cuda=True)
    whole_s = _median_s(lambda: sampler(step(tokens, view)).tolist(), is_cuda=True)
    return products_s, max(0.0, whole_s - products_s)


def _products(model: Transformer, layers: Sequence[Linear], num_rows: int) -> Callable[[], object]:
    """What multiplies so many rows by all of these weights, one after the other, as compiled code does."""
    like = model.norm.weight
    inputs = {width: like.new_ones(num_rows, width) for width in {layer.in_features for layer in layers}}
    return lambda: [F.linear(inputs[layer.in_features], layer.weight, layer.bias) for layer in layers][-1:]


@torch.inference_mode()
def _all_blocks_s(model: Transformer, cache: KVCache | None, shape: StepShape) -> float:
    """Median time of all blocks of a step."""
    store = None
    if cache is not None:
        scratch, requests = _scratch(cache, shape, num_layers=len(model.layers))
        store = scratch.view(requests, shape.new)
    like = model.embed_tokens.weight
    x = torch.randn(shape.batch, shape.new, model.config.hidden_size, dtype=model.dtype, device=like.device)
    rotation = model.rotation(store.positions if store is not None else None, shape.new, x)
    mask = model.mask(store, shape.new)

    def blocks() -> None:
        y = x
        for block in model.layers:
            y = block(y, rotation, mask, store)

    return _median_s(blocks, is_cuda=like.is_cuda)


def _scratch(cache: KVCache, shape: StepShape, *, num_layers: int) -> tuple[KVCache, list[Request]]:
    """A cache of so many layers that is otherwise like this one, and what stands in it before a step of that shape.

    Where it would take too much memory, layers share theirs; those are so large that they are never found in a cache.
    """
    layer_bytes = cache.block_bytes // cache.config.num_layers * shape.batch * -(-shape.length // cache.block_size)
    num_distinct = max(1, min(num_layers, _MOST_SCRATCH_BYTES // layer_bytes))
    scratch = KVCache(
        replace(cache.config, num_layers=num_distinct),
        dtype=cache.dtype,
        compute_dtype=cache.compute_dtype,
        device=cache.device,
        block_size=cache.block_size,
    )
    past = shape.length - shape.new
    requests = [Request(index, [0] * past, shape.new, arrival_s=0.0) for index in range(shape.batch)]
    scratch.admit(requests)
    for part in (part for parts in scratch.layers for part in parts):
        part.fill_(1)  # memory that was never written to has no pages to read
    scratch.layers = [scratch.layers[index % num_distinct] for index in range(num_layers)]
    for request in requests:
        request.num_cached = past
    return scratch, requests


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
