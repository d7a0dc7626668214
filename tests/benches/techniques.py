"""What do techniques bring beside what was promised of them? Each measured in turns with what it is compared to.

    python tests/benches/techniques.py prefix preload structured sparse

`prefix`: time to the first token behind a shared prefix of 1,024 tokens, with `prefix_cache` against without.
`preload`: reading that prefix from disk against computing it, pages of the file dropped before each try.
`structured`: prefill after channel pruning, against the arithmetic that is left.
`sparse`: decoding over compressed rows at three densities, against the dense matrix.
All on llama-125m. Takes about two minutes each.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from labkit.bench.compare import decide
from labkit.core import paths
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec, workload
from labkit.engine.engine import Engine
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from labkit.runner.plan import Plan
from labkit.runner.session import Session

MODEL = "llama-125m"
HALF_PRECISION = "precision + kv_cache"
PREFIX = workload("shared_prefix", prompt_tokens=1_056, new_tokens=8, shared_prefix_tokens=1_024)
TRIES = 12


def prefix() -> None:
    """Goal: 15 times."""
    tell("time to the first token", measured(PREFIX, HALF_PRECISION, f"{HALF_PRECISION} + prefix_cache"), prefill_rate)


def preload() -> None:
    """Goal: 5 times."""
    recipe = bind(f"{HALF_PRECISION} + prefix_cache")
    engine = build_engine(recipe, model=MODEL, device="cpu", cache_folder=paths.cache_folder())
    request = PREFIX.draw(0).requests[0]
    path = engine.save_prefix("bench", request)
    rates: dict[str, list[float]] = {"computed": [], "read": []}
    for number in range(TRIES + 1):
        turns = [("computed", partial(computed, engine, number)), ("read", partial(read, engine, path))]
        for name, turn in turns[:: 1 if number % 2 else -1]:
            assert engine.prefixes is not None
            engine.prefixes.clear()
            start_s = time.perf_counter()
            turn()
            if number:  # the first of all chooses kernels
                rates[name].append(1 / (time.perf_counter() - start_s))
    print(f"preload: a prefix of {path.stat().st_size / 2**20:.1f} MiB, {ratio(rates['computed'], rates['read'])}")


def computed(engine: Engine, number: int) -> None:
    """Serve the shared prefix and one token, so that its blocks are stored."""
    spec = workload("shared_prefix", prompt_tokens=1_025, new_tokens=1, shared_prefix_tokens=1_024, seed=number)
    engine.serve(engine.prepare(spec.draw(0)))


def read(engine: Engine, path: Path) -> None:
    """Load the blocks from the disk, not from the system's cache of it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert engine.prefixes is not None
    engine.prefixes.load(path.stem)


def structured() -> None:
    """Goal: 80 % of the gain in arithmetic."""
    spec = workload("chat", prompt_tokens=512, new_tokens=8)
    runs = measured(spec, HALF_PRECISION, f"prune(sparsity=0.3, pattern='channel') + {HALF_PRECISION}")
    tell("prefill", runs, prefill_rate)
    flops = [sum(flops_of(run).values()) for run in runs]
    print(f"structured: {flops[0] / flops[1]:.2f} times fewer FLOPs in prefill")


def flops_of(run: Run) -> Mapping[str, float]:
    """Arithmetic of the prefill step by dtype."""
    assert run.cost is not None
    flops: Mapping[str, float] = run.cost["phases"]["prefill"]["flops_by_dtype"]
    return flops


def sparse() -> None:
    """No goal: where do compressed rows start to pay?"""
    densities = [f"prune(sparsity={sparsity}, pattern='unstructured') + kv_cache" for sparsity in (0.5, 0.7, 0.9)]
    runs = measured(workload("chat", prompt_tokens=64, new_tokens=32), "kv_cache", *densities)
    tell("decoding", runs, decode_rate)
    for run in runs:
        kernels = {name: kernel for name, kernel in run.build["kernels"].items() if name.endswith(" 1 rows")}
        print(f"sparse: {run.recipe}: {kernels}")


def measured(spec: WorkloadSpec, *recipes: str) -> Sequence[Run]:
    """Runs of recipes in one interleaved session."""
    session = Session(cache_folder=paths.cache_folder())
    return session.measure(Plan(model=MODEL, spec=spec, recipes=recipes, effort="quick"))


def prefill_rate(run: Run) -> list[float]:
    """First tokens per second of each pass."""
    return [1 / (measured.trace.requests[0].output_s[0] - measured.trace.requests[0].sent_s) for measured in run.passes]


def decode_rate(run: Run) -> list[float]:
    """Tokens per second of each pass after the first."""
    times = [measured.trace.requests[0].output_s for measured in run.passes]
    return [(len(output_s) - 1) / (output_s[-1] - output_s[0]) for output_s in times]


def tell(what: str, runs: Sequence[Run], rate: Callable[[Run], list[float]]) -> None:
    """The ratio of each Run to the first."""
    for run in runs[1:]:
        print(f"{what}: {run.recipe} over {runs[0].recipe}: {ratio(rate(runs[0]), rate(run))}", flush=True)


def ratio(base: Sequence[float], other: Sequence[float]) -> str:
    """How many times as fast, with its interval."""
    found = decide(base, {"other": other})["other"].ratio
    return f"{found.value:.2f} times as fast [{found.low:.2f}, {found.high:.2f}]"


BENCHES = {bench.__name__: bench for bench in (prefix, preload, structured, sparse)}


def main() -> int:
    """Run the benches that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="+", choices=list(BENCHES))
    for name in parser.parse_args().bench:
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
