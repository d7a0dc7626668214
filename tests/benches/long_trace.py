"""Does a long trace run to its end in bounded memory, and how long does it take beside transformers?

    python tests/benches/long_trace.py --model qwen3-0.6b --shorten 16

256 requests that are all there at once, prompts and answers of 100 to 1,024 tokens, drawn evenly from a seed, as in the
benchmark of nano-vllm; both lengths are divided by what `--shorten` says. The engine has int8 weights, continuous
batching, and a budget for keys and values that is too small for the longest sequences, so that it has to preempt.
Transformers' `generate` gets the same requests in batches, in the order in which they came, in bf16. Each has a process
of its own and one pass, since that takes minutes: no interval, no verdict.
"""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing

from labkit.core import paths
from labkit.core.trace import Trace
from labkit.core.workload import WorkloadSpec
from labkit.runner.memory import forget_peak_memory, peak_memory_bytes

BATCH = 16
REQUESTS, SHORTEST, LONGEST = 256, 100, 1024
KV_SHARE = 0.4  # of what BATCH sequences of the greatest length take


def spec_of(shorten: int) -> WorkloadSpec:
    """The trace, with its lengths divided."""
    low, high = SHORTEST // shorten, LONGEST // shorten
    return WorkloadSpec(
        "long_trace", "offline", high, high, num_requests=REQUESTS, min_prompt_tokens=low, min_new_tokens=low
    )


def ours(model: str, shorten: int) -> str:
    """Continuous batching of int8 weights over a pool that is too small."""
    from labkit.model.source import open_model
    from labkit.optimizations import bind
    from labkit.optimizations.build import build_engine

    config, spec = open_model(model).config, spec_of(shorten)
    token_bytes = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim  # keys and values of bf16
    pool = int(KV_SHARE * BATCH * (spec.prompt_tokens + spec.new_tokens) * token_bytes)
    cache = f"kv_cache(block_size=16, budget_bytes={pool})"
    recipe = f"quantize(bits=8) + {cache} + continuous_batching(max_batch={BATCH})"
    with closing(build_engine(bind(recipe), model=model, device="cpu", cache_folder=paths.cache_folder())) as engine:
        engine.serve(engine.prepare(WorkloadSpec("warm-up", "offline", 8, 8, num_requests=BATCH).draw(0)))
        prepared = engine.prepare(spec.draw(0))
        forget_peak_memory("cpu")
        before = peak_memory_bytes("cpu")
        trace = engine.serve(prepared)
        return told(recipe, trace, spec, before) + f"; pool of {pool / 2**20:.0f} MiB; {dict(engine.counters())}"


def theirs(model: str, shorten: int) -> str:
    """`generate`, batch by batch."""
    from labkit.peers import open_peer

    options = {"dtype": "bf16", "batch": BATCH}
    peer = open_peer("transformers", model=model, device="cpu", options=options, cache_folder=paths.cache_folder())
    with closing(peer):
        peer.serve(peer.prepare(WorkloadSpec("warm-up", "offline", 8, 8, num_requests=BATCH).draw(0)))
        spec = spec_of(shorten)
        prepared = peer.prepare(spec.draw(0))
        forget_peak_memory("cpu")
        before = peak_memory_bytes("cpu")
        return told("transformers bf16", peer.serve(prepared), spec, before)


def told(name: str, trace: Trace, spec: WorkloadSpec, before_bytes: int) -> str:
    """Figures of one pass; raises AssertionError unless every request got what it asked for."""
    wanted = [request.max_new_tokens for request in spec.draw(0).requests]
    assert [len(request.output_ids) for request in trace.requests] == wanted
    tokens = sum(request.prompt_tokens for request in trace.requests) + trace.num_outputs
    grown = (peak_memory_bytes("cpu") - before_bytes) / 2**20
    return (
        f"{name}: {len(wanted)} requests, {tokens:,} tokens in {trace.duration_s:.0f} s, "
        f"{trace.num_outputs / trace.duration_s:.1f} output tokens/s; memory grew by {grown:.0f} MiB"
    )


def main() -> int:
    """Run both, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-0.6b")
    parser.add_argument("--shorten", type=int, default=16)
    arguments = parser.parse_args()
    for run in (ours, theirs):
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            print(pool.submit(run, arguments.model, arguments.shorten).result(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
