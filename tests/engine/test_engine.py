"""The engine serves what was asked in its scheduler's order; exact techniques leave the output as it was."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.core.errors import UsageError
from labkit.core.machine import machine
from labkit.core.replay import Line
from labkit.core.trace import Trace
from labkit.core.workload import Request, Workload, WorkloadSpec
from labkit.engine.engine import Engine
from labkit.engine.quality import WINDOW, score
from labkit.model.native import build
from labkit.optimizations import bind

MakeEngine = Callable[[str], Engine]


def mixed_lengths() -> Workload:
    lengths = ((3, 9), (20, 2), (11, 5), (7, 12), (1, 1))
    return Workload(
        "mixed", "offline", tuple(Request(tuple(range(5, 5 + n)), new, prompt_tokens=n) for n, new in lengths)
    )


def outputs(trace: Trace) -> list[tuple[int, ...]]:
    return [request.output_ids for request in trace.requests]


def test_every_request_gets_its_tokens_at_rising_times(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + static_batching(size=2)")
    trace = engine.serve(engine.prepare(mixed_lengths()))
    assert [len(request.output_ids) for request in trace.requests] == [9, 2, 5, 12, 1]
    for request in trace.requests:
        times = (request.arrival_s, request.sent_s, request.scheduled_s, *request.output_s, trace.duration_s)
        assert list(times) == sorted(times)


@pytest.mark.parametrize(
    "recipe",
    [
        "kv_cache",
        "kv_cache(block_size=1)",
        "static_batching(size=3)",
        "kv_cache + static_batching(size=2)",
        "kv_cache + static_batching(size=8)",
        "kv_cache + static_batching(size=3) + threads(num=1)",
    ],
)
def test_exact_recipes_give_the_tokens_of_the_baseline(make_engine: MakeEngine, recipe: str) -> None:
    workload = mixed_lengths()
    baseline, engine = make_engine(""), make_engine(recipe)
    expected = outputs(baseline.serve(baseline.prepare(workload)))
    for _ in range(2):  # the second pass finds the cache used
        assert outputs(engine.serve(engine.prepare(workload))) == expected


def test_the_naive_engine_takes_one_request_at_a_time(make_engine: MakeEngine) -> None:
    engine = make_engine("")
    trace = engine.serve(engine.prepare(mixed_lengths()))
    assert trace.counters["steps"] == 9 + 2 + 5 + 12 + 1
    ends = [request.output_s[-1] for request in trace.requests]
    starts = [request.scheduled_s for request in trace.requests]
    assert all(start >= end for start, end in zip(starts[1:], ends[:-1], strict=True))


def test_a_static_batch_takes_the_steps_of_its_longest(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + static_batching(size=3)")
    trace = engine.serve(engine.prepare(mixed_lengths()))
    assert trace.counters["steps"] == 9 + 12


def test_single_stream_sends_a_request_when_the_one_before_is_done(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache")
    spec = WorkloadSpec("stream", "single_stream", prompt_tokens=8, new_tokens=4, num_requests=3)
    requests = engine.serve(engine.prepare(spec.draw(0))).requests
    for before, after in itertools.pairwise(requests):
        assert before.output_s[-1] <= after.arrival_s <= after.sent_s


def test_a_server_workload_is_served_to_the_end(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + static_batching(size=3)")
    spec = WorkloadSpec("load", "server", prompt_tokens=8, new_tokens=4, num_requests=7, rate_per_s=200.0)
    trace = engine.serve(engine.prepare(spec.draw(0)))
    assert [len(request.output_ids) for request in trace.requests] == [4] * 7
    assert all(request.sent_s >= request.arrival_s for request in trace.requests)


def test_a_request_beyond_the_context_is_refused_before_anything_runs(make_engine: MakeEngine) -> None:
    engine = make_engine("")
    spec = WorkloadSpec("long", "offline", prompt_tokens=250, new_tokens=7)
    with pytest.raises(UsageError, match=r"250 prompt and 7 new tokens were asked for; .* holds 256 positions"):
        engine.prepare(spec.draw(0))


def test_a_pass_that_breaks_off_leaves_the_engine_usable(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine("kv_cache + static_batching(size=2)")
    workload = mixed_lengths()
    expected = outputs(engine.serve(engine.prepare(workload)))
    execute, calls = engine.executor.execute, []

    def interrupt(sequences):  # type: ignore[no-untyped-def]
        calls.append(sequences)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return execute(sequences)

    with monkeypatch.context() as patch:
        patch.setattr(engine.executor, "execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.serve(engine.prepare(workload))
    assert outputs(engine.serve(engine.prepare(workload))) == expected
    assert engine.cache is not None
    assert engine.cache.num_used_blocks == 0


class CountingMode(TorchDispatchMode):
    """Counts the operations that reach a kernel or make a view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_native", [False, True])
def test_the_cost_model_counts_the_dispatches_of_a_decode_step(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, is_native: bool
) -> None:
    calls = counted_kernels(monkeypatch, is_native=is_native)
    engine = make_engine("kv_cache + precision")
    counts = []
    for new_tokens in (8, 4, 8):  # the first chooses kernels
        spec = WorkloadSpec("count", "single_stream", prompt_tokens=8, new_tokens=new_tokens)
        prepared = engine.prepare(spec.draw(0))
        calls.count = 0
        with CountingMode() as mode:
            engine.serve(prepared)
        counts.append(mode.count + calls.count)
    per_step = (counts[2] - counts[1]) / 4
    modelled = engine.cost(spec).phases["decode"].kernel_launches
    assert abs(per_step / modelled - 1) < 0.15


class CountingLibrary:
    """Counts calls of native kernels."""

    def __init__(self, library: object) -> None:
        self.library = library
        self.count = 0

    def __getattr__(self, name: str) -> object:
        self.count += 1
        return getattr(self.library, name)


def counted_kernels(monkeypatch: pytest.MonkeyPatch, *, is_native: bool) -> CountingLibrary:
    """The native kernels, counted, or none of them."""
    found = build.native()
    if is_native and not found.compiler:
        pytest.skip(found.reason)
    calls = CountingLibrary(found.library)
    monkeypatch.setattr(build, "native", lambda: build.Native(calls if is_native else None, "", ""))
    return calls


def test_a_cache_of_fewer_bits_is_no_exact_technique() -> None:
    assert bind("kv_cache + threads").exact.recipe.text == "kv_cache + threads"
    assert bind("kv_cache(dtype='fp32')").exact.optimizations
    for dtype in ("bf16", "fp16", "int8"):
        assert not bind(f"kv_cache(dtype='{dtype}')").exact.optimizations


@pytest.mark.parametrize("precision", ["", " + precision"])
def test_rounded_keys_and_values_move_the_logits_little_and_alike_by_any_kernel(
    make_engine: MakeEngine, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = torch.randint(0, 300, (3, WINDOW))
    exact = torch.stack(list(score(make_engine("kv_cache" + precision), windows))).float()
    rounded = torch.stack(list(score(make_engine("kv_cache(dtype='int8')" + precision), windows))).float()
    monkeypatch.setattr("labkit.engine.cache.has_kernels", lambda **_: False)
    by_torch = torch.stack(list(score(make_engine("kv_cache(dtype='int8')" + precision), windows))).float()
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()
    assert (rounded - by_torch).norm() < (0.02 if precision else 1e-3) * exact.norm()


@pytest.mark.parametrize(
    ("recipe", "isa", "emulated"),
    [
        ("precision(dtype='fp16')", ("avx512_bf16",), ["fp16"]),
        ("precision", ("avx2",), ["bf16"]),
        ("precision", ("avx512_bf16",), []),
        ("", ("avx2",), []),
        ("quantize", ("avx2",), []),  # no float weights, and integers are converted anyway
    ],
)
def test_a_run_tells_the_dtypes_that_its_processor_only_emulates(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, recipe: str, isa: tuple[str, ...], emulated: list[str]
) -> None:
    here = replace(machine(), isa=isa)
    monkeypatch.setattr("labkit.engine.engine.machine", lambda device: here)
    assert make_engine(recipe).facts()["emulated"] == emulated


@pytest.mark.parametrize("recipe", ["kv_cache", "kv_cache + static_batching(size=8)"])
def test_a_closed_loop_never_has_more_outstanding_than_stated(make_engine: MakeEngine, recipe: str) -> None:
    engine = make_engine(recipe)
    spec = WorkloadSpec("loop", "closed_loop", 9, 6, 7, concurrency=3, min_prompt_tokens=2, min_new_tokens=2)
    trace = engine.serve(engine.prepare(spec.draw(0)))
    assert [len(request.output_ids) for request in trace.requests] == [length.new_tokens for length in spec.lengths]
    assert [request.prompt_tokens for request in trace.requests] == [length.prompt_tokens for length in spec.lengths]
    ends = sorted(request.output_s[-1] for request in trace.requests)
    for number, request in enumerate(sorted(trace.requests, key=lambda one: one.arrival_s)):
        assert request.arrival_s <= request.sent_s
        assert number < 3 or request.arrival_s >= ends[number - 3]


def test_later_turns_find_the_keys_and_values_of_the_ones_before(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache(block_size=16) + prefix_cache")
    spec = WorkloadSpec("chat", "closed_loop", 96, 4, 6, concurrency=2, turns=3)
    trace = engine.serve(engine.prepare(spec.draw(0)))
    assert trace.counters["prefix_hit_tokens"] >= 2 * (32 + 64)


def test_recorded_texts_are_served_whole_and_their_cost_is_that_of_their_tokens(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache")
    lines = (Line(0.0, "naïve", 3), Line(0.01, 9, 2))
    spec = WorkloadSpec("replay", "server", 9, 3, 2, replay=lines)
    trace = engine.serve(engine.prepare(spec.draw(0)))
    assert [request.prompt_tokens for request in trace.requests] == [6, 9]
    assert [len(request.output_ids) for request in trace.requests] == [3, 2]
    known = replace(spec, replay=(Line(0.0, 6, 3), lines[1]))
    assert engine.cost(spec).to_dict() == engine.cost(known).to_dict()
