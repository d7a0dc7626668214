"""What does batching bring under load, and what does it cost? Recipes in turns, in one session each.

    python tests/benches/batching.py concurrent mixed --model pylm --steps "quantize(bits=8)"

`concurrent`: continuous batching against one request at a time, 16 outstanding. Goal: 3 times the tokens per second.
`mixed`: continuous against static batching, prompts and answers of 16 to 256 tokens, 16 outstanding. Goal: 1.5 times
the tokens per second at no worse p99 of the time to the first token.
Both tell the share of the time that goes into scheduling (goal: 3 % at most), and how late requests were sent.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import chain

import numpy as np

from labkit.bench.compare import decide
from labkit.bench.loadgen import Lag
from labkit.core import paths
from labkit.core.run import Run
from labkit.core.trace import RequestTrace
from labkit.core.workload import WorkloadSpec
from labkit.runner.plan import Plan
from labkit.runner.session import Session

OUTSTANDING = 16
CONTINUOUS = f"continuous_batching(max_batch={OUTSTANDING})"
STATIC = f"static_batching(size={OUTSTANDING})"


def concurrent(model: str, steps: Sequence[str], num_requests: int) -> None:
    """64 tokens in, 64 out."""
    spec = WorkloadSpec("concurrent", "closed_loop", 64, 64, num_requests=num_requests, concurrency=OUTSTANDING)
    tell(measured(model, spec, recipe(*steps), recipe(*steps, CONTINUOUS)))


def mixed(model: str, steps: Sequence[str], num_requests: int) -> None:
    """16 to 256 tokens in and out."""
    spec = WorkloadSpec(
        "mixed",
        "closed_loop",
        256,
        256,
        num_requests=num_requests,
        min_prompt_tokens=16,
        min_new_tokens=16,
        concurrency=OUTSTANDING,
    )
    tell(measured(model, spec, recipe(*steps, STATIC), recipe(*steps, CONTINUOUS)))


def recipe(*steps: str) -> str:
    """Steps with the cache that all of these need."""
    return " + ".join(("kv_cache", *steps))


def measured(model: str, spec: WorkloadSpec, *recipes: str) -> Sequence[Run]:
    """Runs of recipes in one interleaved session."""
    session = Session(cache_folder=paths.cache_folder())
    return session.measure(Plan(model=model, spec=spec, recipes=recipes, effort="quick"))


def tell(runs: Sequence[Run]) -> None:
    """The ratio of the second Run to the first, and the rest of each."""
    found = decide(rates(runs[0]), {"second": rates(runs[1])})["second"].ratio
    spec = runs[0].workload
    print(f"{spec['name']}: {found.value:.2f} times as fast [{found.low:.2f}, {found.high:.2f}]")
    for run in runs:
        firsts = [one.output_s[0] - one.arrival_s for one in requests(run)]
        lag = Lag.of([measured.trace for measured in run.passes])
        counts = {name: run.metrics[name]["value"] for name in ("batch_mean", "padding_rate", "scheduling_share")
                  if name in run.metrics}  # fmt: skip
        print(
            f"  {run.recipe}: {np.mean(rates(run)):,.0f} tok/s; TTFT p50 {np.percentile(firsts, 50):.3f} s, "
            f"p99 of {len(firsts)} {np.percentile(firsts, 99, method='inverted_cdf'):.3f} s; "
            f"{', '.join(f'{name} {count:.3g}' for name, count in counts.items())}; "
            f"lag p99 {lag.p99_s if lag else 0:.2g} s; {[fault.code for fault in run.faults] or 'valid'}",
            flush=True,
        )


def requests(run: Run) -> list[RequestTrace]:
    """All of its requests."""
    return list(chain.from_iterable(measured.trace.requests for measured in run.passes))


def rates(run: Run) -> list[float]:
    """Output tokens per second of each pass."""
    return [measured.trace.num_outputs / measured.trace.duration_s for measured in run.passes]


BENCHES = {bench.__name__: bench for bench in (concurrent, mixed)}


def main() -> int:
    """Run the benches that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="+", choices=list(BENCHES))
    parser.add_argument("--model", default="pylm")
    parser.add_argument("--steps", nargs="*", default=["quantize(bits=8)"], help="other steps of all recipes")
    parser.add_argument("--requests", type=int, default=64, help="requests of a pass")
    arguments = parser.parse_args()
    for name in arguments.bench:
        BENCHES[name](arguments.model, arguments.steps, arguments.requests)
    return 0


if __name__ == "__main__":
    sys.exit(main())
