"""Prompts that begin alike share keys and values, bit for bit, within a budget, and the tokens stay what they were."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.core.trace import Trace
from labkit.core.workload import Request, Workload
from labkit.engine.cache import KVCache
from labkit.engine.engine import Engine
from labkit.engine.executor import StepShape
from labkit.engine.prefix import PrefixCache
from labkit.engine.sequence import Sequence
from labkit.model.config import ModelConfig

MakeEngine = Callable[[str], Engine]

RECIPE = "kv_cache(block_size=8) + prefix_cache"
BLOCK_BYTES = 2 * 2 * 2 * 16 * 4 * 8  # keys and values, layers, KV heads, width, fp32, tokens

CONFIG = ModelConfig(
    vocab_size=8, hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=8,
    max_positions=64,
)  # fmt: skip


def ids(length: int, salt: int) -> list[int]:
    """Token ids that differ between salts at every index."""
    return [(7 * index * index + 31 * salt) % 250 + 3 for index in range(length)]


SHARED = ids(40, salt=0)
ALIKE = [
    SHARED + ids(8, salt=1),  # whole blocks
    SHARED + ids(1, salt=2),
    SHARED[:37] + ids(6, salt=3),  # parts within a block
    SHARED,
    SHARED[:8],  # a single block
    SHARED[:5],  # less than one
    ids(50, salt=4),
    SHARED + ids(30, salt=5),
]


def serve(engine: Engine, *prompts: list[int], new_tokens: int = 4) -> Trace:
    requests = tuple(Request(tuple(prompt), new_tokens, len(prompt)) for prompt in prompts)
    return engine.serve(engine.prepare(Workload("alike", "offline", requests)))


def outputs(trace: Trace) -> list[tuple[int, ...]]:
    return [request.output_ids for request in trace.requests]


def counted(trace: Trace) -> tuple[float, float, float]:
    names = ("prefix_hit_tokens", "prompt_tokens", "prefix_bytes")
    return tuple(trace.counters[name] for name in names)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        "kv_cache(block_size=1) + prefix_cache",
        "kv_cache + prefix_cache",
        f"{RECIPE} + static_batching(size=3)",
        f"{RECIPE} + static_batching(size=8)",
        "kv_cache(block_size=64) + prefix_cache + static_batching(size=2)",
    ],
)
def test_prompts_that_begin_alike_get_the_tokens_of_the_baseline(make_engine: MakeEngine, recipe: str) -> None:
    expected = outputs(serve(make_engine(""), *ALIKE))
    engine = make_engine(recipe)
    for _ in range(3):  # nothing is known, what fits is known, everything is
        assert outputs(serve(engine, *ALIKE)) == expected
        assert outputs(serve(engine, *ALIKE[::-1])) == expected[::-1]


def test_hits_are_counted_in_whole_blocks_that_leave_a_token_to_compute(make_engine: MakeEngine) -> None:
    engine = make_engine(RECIPE)
    assert counted(serve(engine, SHARED + ids(8, salt=1))) == (0, 48, 6 * BLOCK_BYTES)
    assert counted(serve(engine, SHARED + ids(1, salt=2))) == (40, 41, 6 * BLOCK_BYTES)
    assert counted(serve(engine, SHARED + ids(8, salt=1))) == (40, 48, 6 * BLOCK_BYTES)  # its last token is in block 6
    assert counted(serve(engine, SHARED)) == (32, 40, 6 * BLOCK_BYTES)
    assert counted(serve(engine, SHARED[:37] + ids(6, salt=3))) == (32, 43, 7 * BLOCK_BYTES)
    assert counted(serve(engine, SHARED[:8], SHARED[:9])) == (0 + 8, 8 + 9, 7 * BLOCK_BYTES)
    assert counted(serve(engine, SHARED[:5])) == (0, 5, 7 * BLOCK_BYTES)
    assert counted(serve(engine, SHARED[8:] + ids(8, salt=0))) == (0, 40, 12 * BLOCK_BYTES)  # the same, elsewhere


def test_an_engine_without_it_counts_no_hits(make_engine: MakeEngine) -> None:
    counters = serve(make_engine("kv_cache"), SHARED).counters
    assert not {"prompt_tokens", "prefix_hit_tokens", "prefix_bytes"} & set(counters)


def test_a_batch_of_which_some_begin_alike_stays_within_the_positions_of_the_model(make_engine: MakeEngine) -> None:
    long, other = ids(250, salt=1), ids(250, salt=2)
    engine = make_engine(f"{RECIPE} + static_batching(size=3)")
    serve(engine, long, new_tokens=6)
    trace = serve(engine, other, long, ids(3, salt=3), new_tokens=6)  # 256 positions, 248 of them known of the second
    assert trace.counters["prefix_hit_tokens"] == 248
    assert StepShape(new=2, batch=1, length=250) in engine.executor.shapes["prefill"]  # the second had its own pass
    assert outputs(trace) == outputs(serve(make_engine(""), other, long, ids(3, salt=3), new_tokens=6))


def test_a_cold_engine_has_forgotten_every_prefix(make_engine: MakeEngine) -> None:
    engine = make_engine(RECIPE)
    serve(engine, SHARED)
    engine.drop_caches()
    assert counted(serve(engine, SHARED)) == (0, 40, 5 * BLOCK_BYTES)
    make_engine("kv_cache").drop_caches()
    make_engine("").drop_caches()


def test_a_pass_that_breaks_off_leaves_prefixes_that_are_right(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(f"{RECIPE} + static_batching(size=3)")
    serve(engine, SHARED)
    forward, calls = engine.executor._forward, []  # type: ignore[attr-defined]

    def interrupt(*args: Any) -> Tensor:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*args)  # type: ignore[no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(engine.executor, "_forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            serve(engine, *ALIKE[:3])
    assert outputs(serve(engine, *ALIKE)) == outputs(serve(make_engine(""), *ALIKE))


@pytest.mark.parametrize("dtype", ["auto", "bf16", "fp16"])
def test_a_reused_block_is_bit_equal_to_what_the_cache_held(make_engine: MakeEngine, dtype: str) -> None:
    engine = make_engine(f"kv_cache(dtype={dtype!r}, block_size=8) + prefix_cache")
    cache = engine.cache
    assert cache is not None
    first, second = (Sequence(index, SHARED + ids(8, salt=index), 1, 0.0) for index in (1, 2))
    with torch.inference_mode():
        engine.executor.execute([first])
        engine.executor.execute([second])
    for one, other in zip(first.blocks[:6], second.blocks[:6], strict=True):
        is_shared = one != first.blocks[5]  # 40 tokens, then 8 of their own
        for mine, theirs in zip(cache.read(one), cache.read(other), strict=True):
            assert mine.dtype == cache.dtype
            assert torch.equal(mine, theirs) == is_shared


def content(tokens: list[int], layer: int, part: int) -> Tensor:
    """[1, T, 4], another vector for each token, text before it, layer and part."""
    rows = [random.Random(repr((tokens[: end + 1], layer, part))).random() for end in range(len(tokens))]
    return torch.tensor(rows)[None, :, None].expand(1, len(tokens), 4)


class Toy:
    """A cache of blocks of 4 tokens and, beside it, the memory of `num_blocks` of them."""

    def __init__(self, num_blocks: int) -> None:
        self.cache = KVCache(CONFIG, dtype=torch.float32, compute_dtype=torch.float32, device="cpu", block_size=4)
        budget_bytes = num_blocks * self.cache.block_bytes
        self.prefixes = self.cache.prefixes = PrefixCache(self.cache, budget_bytes=budget_bytes, origin={})

    def serve(self, tokens: list[int]) -> int:
        """Serve a prompt; returns how many of its tokens were known, after checking that these are right."""
        sequence = Sequence(0, tokens, 1, 0.0)
        self.cache.admit([sequence])
        num_known, row = sequence.num_cached, slice(sequence.blocks[0], sequence.blocks[-1] + 1)
        for layer, parts in enumerate(self.cache.layers):
            for part, stored in enumerate(parts):
                expected = content(tokens, layer, part)
                lying = stored[:, row].flatten(1, 2)
                assert torch.equal(lying[:, :num_known], expected[:, :num_known])
                lying[:, num_known : len(tokens)] = expected[:, num_known:]
        self.cache.keep([sequence])
        assert self.prefixes.num_bytes <= self.prefixes.budget_bytes
        self.cache.release([sequence])
        return num_known


def test_the_least_recently_used_prefix_goes_first() -> None:
    toy, texts = Toy(4), {name: [index] * 9 for index, name in enumerate("abc")}  # two blocks each, and one token
    toy.serve(texts["a"]), toy.serve(texts["b"])
    assert toy.serve(texts["a"]) == 8
    toy.serve(texts["c"])
    assert (toy.serve(texts["a"]), toy.serve(texts["c"])) == (8, 8)
    assert toy.serve(texts["b"]) == 0


def test_the_end_of_a_prefix_goes_before_its_beginning() -> None:
    toy = Toy(4)
    toy.serve([1] * 13)  # three blocks
    toy.serve([2] * 9)
    assert toy.serve([1] * 13) == 8
    assert toy.prefixes.num_bytes == 4 * toy.cache.block_bytes


def test_of_a_prompt_larger_than_the_budget_its_beginning_is_kept() -> None:
    toy = Toy(3)
    toy.serve([1] * 5)
    toy.serve([2] * 30)
    assert toy.serve([2] * 30) == 12
    assert toy.serve([1] * 5) == 0


def test_whatever_is_served_the_budget_holds_and_no_block_outlives_its_beginning() -> None:
    rng, toy, seen = random.Random(5), Toy(6), []
    num_hits = 0
    for _ in range(300):
        tokens = [value for value in (rng.randrange(2) for _ in range(rng.randrange(1, 6))) for _ in range(4)]
        tokens = tokens[: rng.randrange(1, len(tokens) + 1)]
        num_hits += toy.serve(tokens) > 0
        seen.append(toy.prefixes._keys(tokens))
        for keys in seen:
            is_stored = [key in toy.prefixes._blocks for key in keys]
            assert is_stored == sorted(is_stored, reverse=True)
    assert 50 < num_hits < 250  # both happened often


def test_bytes_held_are_those_of_the_tensors() -> None:
    toy = Toy(6)
    toy.serve(list(range(8)) * 2)
    blocks = toy.prefixes._blocks.values()
    assert toy.prefixes.num_bytes == sum(part.nbytes for block in blocks for part in block) > 0
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for b in blocks for part in b}
    assert sum(storages.values()) == toy.prefixes.num_bytes  # none keeps more memory alive than its own


def test_a_block_has_the_layout_that_the_cache_states() -> None:
    toy = Toy(2)
    toy.serve([1] * 5)
    (block,) = toy.prefixes._blocks.values()
    assert tuple((tuple(part.shape), part.dtype) for part in block) == toy.cache.block_layout
