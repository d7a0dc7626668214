"""Continuous batching: what is scheduled, and that what is said is what each request alone would be told."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch

from labkit.core.errors import UsageError
from labkit.core.trace import Trace
from labkit.core.workload import Request, Workload
from labkit.engine.cache import KVCache
from labkit.engine.continuous import ContinuousBatch
from labkit.engine.engine import Engine
from labkit.engine.quality import MAX_DIVERGED, TIE_GAP
from labkit.engine.scheduler import Plan
from labkit.engine.sequence import Sequence
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from tests.engine.test_parts import CONFIG, sequence

MakeEngine = Callable[[str], Engine]


def make(num_blocks: int, *, max_batch: int = 4, prefill_budget: int = 8, lookahead: int = 0) -> ContinuousBatch:
    """A scheduler over so many blocks of 4 tokens."""
    cache = KVCache(CONFIG, dtype=torch.float32, compute_dtype=torch.float32, device="cpu", block_size=4)
    cache.budget_bytes, cache.lookahead = num_blocks * cache.block_bytes, lookahead
    return ContinuousBatch(max_batch, prefill_budget, cache)


def step(scheduler: ContinuousBatch) -> Plan:
    """A step in which every sequence that moves gets what a model would give it."""
    plan = scheduler.schedule(is_more_coming=False, now_s=0.0)
    ending = [chunk.sequence for chunk in plan.chunks if chunk.is_last]
    for one, num_tokens in (*plan.chunks, *((one, 1) for one in plan.decoding)):
        one.num_cached += num_tokens
        assert one.num_cached <= len(one.blocks) * scheduler.cache.block_size
    for one in (*ending, *plan.decoding):
        one.append(7, 0.0)
    scheduler.cache.release(scheduler.retire())
    return plan


def run(scheduler: ContinuousBatch, sequences: Iterable[Sequence]) -> list[Plan]:
    """Serve all of them; returns the steps."""
    for one in sequences:
        scheduler.add(one)
    plans = []
    while scheduler.waiting or scheduler.running:
        plans.append(step(scheduler))
        assert plans[-1].sequences, "a step that moves nothing never ends"
    assert scheduler.cache.num_used_blocks == 0
    return plans


def test_a_request_joins_while_others_decode_and_leaves_with_its_last_token() -> None:
    scheduler = make(100)
    first, second = sequence(0, prompt=3, new=4), sequence(1, prompt=2, new=2)
    scheduler.add(first)
    assert step(scheduler).chunks == [(first, 3)]
    scheduler.add(second)
    joined = step(scheduler)
    assert (joined.chunks, joined.decoding) == ([(second, 2)], [first])
    assert step(scheduler).decoding == [first, second]
    assert second.is_finished
    assert not second.blocks
    assert step(scheduler).decoding == [first]


def test_prompts_are_cut_into_chunks_that_together_keep_to_the_budget() -> None:
    plans = run(make(100, prefill_budget=8), [sequence(index, prompt=11, new=3) for index in range(3)])
    sizes = [[chunk.num_tokens for chunk in plan.chunks] for plan in plans if plan.chunks]
    assert sizes == [[8], [3, 5], [6, 2], [8], [1]]


def test_no_more_run_than_may() -> None:
    plans = run(make(1000, max_batch=3, prefill_budget=100), [sequence(index, new=5) for index in range(10)])
    assert max(len(plan.sequences) for plan in plans) == 3


def test_the_newest_gives_way_and_is_computed_again() -> None:
    scheduler = make(7)
    first, second = sequence(0, prompt=8, new=12), sequence(1, prompt=5, new=14)
    plans = run(scheduler, [first, second])
    assert [plan.preempted for plan in plans if plan.preempted] == [[second]]
    assert scheduler.num_preemptions == 1
    again = [plan.chunks for plan in plans if any(one is second for one, _ in plan.chunks)][1:]
    assert again[0][0].num_tokens > 5, "what it had said is part of what is computed again"
    assert (len(first.outputs), len(second.outputs)) == (12, 14)


def test_requests_start_in_the_order_they_came() -> None:
    sequences = [sequence(index, prompt=1 + index % 7, new=1 + index % 5) for index in range(40)]
    starts = [chunk.sequence.index for plan in run(make(9), sequences) for chunk in plan.chunks]
    firsts = list(dict.fromkeys(starts))
    assert all(before < after for before, after in pairwise(firsts))
    assert len(firsts) == 40


@pytest.mark.parametrize("seed", range(20))
def test_every_request_gets_all_its_tokens_however_little_memory_there_is(seed: int) -> None:
    draw = random.Random(seed)
    lookahead = draw.choice((0, 3))
    sequences = [sequence(index, prompt=draw.randint(1, 15), new=draw.randint(1, 15)) for index in range(60)]
    most = max(-(-(one.max_tokens + lookahead) // 4) for one in sequences)
    scheduler = make(
        most + draw.randint(0, 6),
        max_batch=draw.randint(1, 9),
        prefill_budget=draw.randint(1, 20),
        lookahead=lookahead,
    )
    run(scheduler, sequences)
    assert all(one.is_finished for one in sequences)


def random_requests(num: int, *, seed: int, most_prompt: int, most_new: int, rate_per_s: float | None) -> Workload:
    draw, arrival_s, requests = random.Random(seed), 0.0, []
    for _ in range(num):
        arrival_s += draw.expovariate(rate_per_s) if rate_per_s else 0.0
        prompt = tuple(draw.randrange(2, 300) for _ in range(draw.randint(1, most_prompt)))
        requests.append(Request(prompt, draw.randint(1, most_new), len(prompt), arrival_s))
    return Workload("random", "server" if rate_per_s else "offline", tuple(requests))


def assert_as_if_alone(engine: Engine, reference: Engine, workload: Workload, trace: Trace) -> None:
    """By the rule of `quality.prove`, every token is what one uncached pass of the reference over the text chooses."""
    assert engine.cache is not None
    assert engine.cache.num_used_blocks == 0
    by_length = defaultdict(list)
    for asked, told in zip(workload.requests, trace.requests, strict=True):
        assert len(told.output_ids) == asked.max_new_tokens
        by_length[len(asked.prompt) + asked.max_new_tokens].append((*asked.prompt, *told.output_ids))
    prompts = {(*asked.prompt, *told.output_ids): len(asked.prompt)
               for asked, told in zip(workload.requests, trace.requests, strict=True)}  # fmt: skip
    num_ties = 0
    for texts in by_length.values():
        tokens = torch.tensor(texts)
        with torch.inference_mode():
            logits = reference.model(tokens[:, :-1])
        best = logits.topk(2).values
        is_tie = best[..., 0] - best[..., 1] < TIE_GAP
        for row, text in enumerate(texts):
            start = prompts[text] - 1
            wrong = (logits[row, start:].argmax(-1) != tokens[row, start + 1 :]).nonzero()
            if len(wrong):
                assert is_tie[row, start + int(wrong[0])], (text, wrong[0])
                num_ties += 1
    assert num_ties <= max(1, MAX_DIVERGED * len(workload.requests))


MODES = (
    "kv_cache + static_batching(size=5)",
    "static_batching(size=5)",
    "kv_cache + dynamic_batching(max_batch=5, max_wait_s=0.002)",
    "kv_cache + continuous_batching(max_batch=6, prefill_budget=16)",
    "kv_cache(block_size=4, budget_bytes=120000) + continuous_batching(max_batch=6, prefill_budget=16)",
    "kv_cache(block_size=4, budget_bytes=120000) + static_batching(size=8)",
    "kv_cache(block_size=8) + prefix_cache + continuous_batching + speculative",
)


@pytest.mark.parametrize("recipe", MODES)
def test_200_random_requests_are_told_what_each_alone_would_be(make_engine: MakeEngine, recipe: str) -> None:
    engine = make_engine(recipe)
    workload = random_requests(200, seed=1, most_prompt=40, most_new=24, rate_per_s=400.0)
    trace = engine.serve(engine.prepare(workload))
    if engine.cache is not None:
        assert_as_if_alone(engine, make_engine(""), workload, trace)
    else:
        naive = make_engine("")
        assert [told.output_ids for told in trace.requests] == [
            told.output_ids for told in naive.serve(naive.prepare(workload)).requests
        ]


def test_a_budget_makes_requests_give_way_and_nothing_is_lost(make_engine: MakeEngine) -> None:
    recipe = "kv_cache(block_size=4, budget_bytes=60000) + continuous_batching(max_batch=8, prefill_budget=64)"
    engine, workload = make_engine(recipe), random_requests(50, seed=2, most_prompt=20, most_new=30, rate_per_s=None)
    trace = engine.serve(engine.prepare(workload))
    assert trace.counters["preemptions"] > 0
    assert_as_if_alone(engine, make_engine(""), workload, trace)
    assert engine.cache is not None
    assert engine.cache.num_bytes <= 60_000


def test_10000_requests_are_neither_mixed_up_nor_lost(make_engine: MakeEngine) -> None:
    recipe = "kv_cache(block_size=4, budget_bytes=120000) + continuous_batching(max_batch=32, prefill_budget=256)"
    engine = make_engine(recipe)
    workload = random_requests(10_000, seed=3, most_prompt=12, most_new=5, rate_per_s=None)
    trace = engine.serve(engine.prepare(workload))
    assert_as_if_alone(engine, make_engine(""), workload, trace)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", [mode for mode in MODES if "kv_cache" in mode])
def test_200_random_requests_of_a_trained_model(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, bound = tmp_path_factory.getbasetemp(), bind(recipe.replace("120000", "40000000"))
    with bound.process():
        engine = build_engine(bound, model="pylm", device="cpu", cache_folder=folder)
        workload = random_requests(200, seed=4, most_prompt=96, most_new=64, rate_per_s=50.0)
        trace = engine.serve(engine.prepare(workload))
    assert_as_if_alone(engine, build_engine(bind(""), model="pylm", device="cpu", cache_folder=folder), workload, trace)


def test_a_request_beyond_the_budget_is_refused_before_anything_runs(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache(block_size=4, budget_bytes=5000) + continuous_batching")
    workload = Workload("long", "offline", (Request((1,) * 40, 2, 40),))
    with pytest.raises(UsageError, match=r"a request of 42 tokens .* kv_cache may take 5,000; raise its budget_bytes"):
        engine.prepare(workload)
