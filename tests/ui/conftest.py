"""Runs as a session would leave them: passes drawn from known speeds, everything derived from them by the real code."""

import random
from collections.abc import Callable, Sequence

import pytest

from labkit.bench.comparison import Comparison, compare
from labkit.core.metrics import summarize
from labkit.core.run import Fault, Pass, Run
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import WorkloadSpec

SPEC = WorkloadSpec("chat", "single_stream", prompt_tokens=64, new_tokens=64)
MIB = 2**20

MACHINE = {
    "host": "d3adb33f",
    "cpu": "Example CPU @ 2.0 GHz",
    "num_cores": 2,
    "isa": ["avx2", "avx512_vnni"],
    "caches_bytes": {"L1": 32768, "L2": 2 * MIB},
    "memory_bytes": 8 * 2**30,
    "gpu": None,
    "versions": {"python": "3.11.9", "torch": "2.13.0"},
    "fingerprint": "f00d",
}

MODEL = {"name": "pylm", "hash": "0123456789abcdef", "num_parameters": 15_700_000, "has_random_weights": False}


def make_trace(rng: random.Random, *, ttft_s: float, itl_s: float, num_tokens: int = 64) -> Trace:
    """One request whose gaps vary by a tenth, the odd one by much more."""
    at = ttft_s * rng.lognormvariate(0, 0.02)
    output_s = [at]
    for _ in range(num_tokens - 1):
        at += itl_s * rng.lognormvariate(0, 0.05) * (1.8 if rng.random() < 0.03 else 1.0)
        output_s.append(at)
    request = RequestTrace(0.0, 0.0, 0.0001, tuple(output_s), tuple(range(num_tokens)), 64)
    return Trace((request,), at + 1e-5)


def make_run(
    recipe: str = "",
    *,
    itl_s: float = 0.02,
    ttft_s: float = 0.03,
    num_blocks: int = 10,
    group: str = "session",
    device: str = "cpu",
    weights_bytes: int = 60 * MIB,
    perplexity_ratio: float = 1.0,
    limit_s: float = 0.002,
    **changes: object,
) -> Run:
    """A Run of known speed."""
    rng = random.Random(f"{recipe}/{device}/{itl_s}")
    passes = tuple(Pass(block, make_trace(rng, ttft_s=ttft_s, itl_s=itl_s)) for block in range(num_blocks))
    metrics = summarize([item.trace for item in passes])
    prefill_s = 0.3 * ttft_s
    pass_s = 63 * limit_s + prefill_s
    fields: dict[str, object] = {
        "id": f"id-{len(recipe):02d}-{device}-{group}",
        "group": group,
        "created_utc": "2030-01-02T03:04:05+00:00",
        "recipe": recipe,
        "workload": SPEC.to_dict(),
        "workload_hash": "abc",
        "model": MODEL,
        "device": device,
        "machine": MACHINE,
        "effort": "quick",
        "passes": passes,
        "metrics": metrics,
        "build": {
            "weights_bytes": weights_bytes,
            "peak_memory_bytes": weights_bytes + 310 * MIB,
            "load_s": 0.4,
            "warmup_s": 1.2,
        },
        "quality": {
            "perplexity_ratio": perplexity_ratio,
            "kl_mean": 0.012 * (perplexity_ratio - 1),
            "same_top1_rate": 0.99,
        },
        "proof": {"num_prompts": 4, "num_tokens": 128, "num_diverged": 0, "is_equal": True, "divergences": []}
        if "kv_cache" in recipe
        else None,
        "limit": {
            "prefill": {"seconds": prefill_s, "step_s": prefill_s, "bound": "compute"},
            "decode": {"seconds": 63 * limit_s, "step_s": limit_s, "bound": "memory"},
            "pass_s": pass_s,
            "output_tok_per_s": 64 / pass_s,
            "decode_tok_per_s": 1 / limit_s,
            "prefill_tok_per_s": 64 / prefill_s,
            "origin": "measured",
        },
        "prediction": {
            "terms": {"weights": 63 * limit_s, "flops": prefill_s, "kernels": 0.0, "dispatch": 0.2 * pass_s},
            "pass_s": 1.2 * pass_s,
            "output_tok_per_s": 64 / pass_s / 1.2,
            "decode_tok_per_s": 1 / limit_s / 1.2,
        },
    }
    return Run(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def runs() -> tuple[Run, ...]:
    """One session: naive baseline, cache, 16 bits, 8 bits, and 4 bits that broke a rule."""
    return session_runs()


def session_runs(group: str = "session", *, is_faulty: bool = True) -> tuple[Run, ...]:
    fault = Fault(
        "contended", "14 % of core time went to other processes", "at most 5 %", "stop them and measure again"
    )
    return (
        make_run("", itl_s=0.041, ttft_s=0.043, group=group, limit_s=0.0125),
        make_run("kv_cache", itl_s=0.0094, ttft_s=0.041, group=group, limit_s=0.0021),
        make_run(
            "precision + kv_cache",
            itl_s=0.0061,
            ttft_s=0.023,
            weights_bytes=30 * MIB,
            perplexity_ratio=1.0007,
            group=group,
            limit_s=0.0011,
        ),
        make_run(
            "quantize + kv_cache",
            itl_s=0.0043,
            ttft_s=0.024,
            weights_bytes=19 * MIB,
            perplexity_ratio=1.0021,
            group=group,
            limit_s=0.0006,
        ),
        make_run(
            "quantize(bits=4) + kv_cache",
            itl_s=0.0039,
            ttft_s=0.027,
            weights_bytes=13 * MIB,
            perplexity_ratio=1.034,
            group=group,
            limit_s=0.0004,
            faults=(fault,) if is_faulty else (),
        ),
    )


@pytest.fixture
def comparison(runs: Sequence[Run]) -> Comparison:
    return compare(runs)


@pytest.fixture
def make() -> Callable[..., Run]:
    return make_run
