"""How often is a verdict right? The same recipe twice, and once more with a slowdown that is known.

    python tests/benches/verdicts.py --tries 20 --slowdown 0.05

Each try is one session of three recipes that differ in nothing but the size of a cache block; the worker of the third
spins after every step for that share of the step's time. Prints one line a try and the counts; a try takes 2 to 3 min.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from labkit.bench.comparison import compare
from labkit.core import paths
from labkit.core.workload import workload
from labkit.runner.plan import Plan
from labkit.runner.session import Session
from labkit.runner.target import Order, Target, TargetOpener
from labkit.runner.worker import main as serve_session

SAME, SLOWED = "kv_cache", "kv_cache(block_size=65)"


class SlowedOpener(TargetOpener):
    """Opens engines; the one of the recipe `SLOWED` spins after each step."""

    def __init__(self, slowdown: float) -> None:
        self.slowdown = slowdown

    def open(self, order: Order) -> AbstractContextManager[Target]:
        """See TargetOpener."""
        return self._slowed(order) if order.recipe == SLOWED else super().open(order)

    @contextmanager
    def _slowed(self, order: Order) -> Iterator[Target]:
        with super().open(order) as target:
            execute = target.system.executor.execute  # type: ignore[attr-defined]

            def spin(sequences):  # type: ignore[no-untyped-def]
                start_s = time.perf_counter()
                logits = execute(sequences)
                now_s = time.perf_counter()
                end_s = now_s + (now_s - start_s) * self.slowdown
                while time.perf_counter() < end_s:
                    pass
                return logits

            target.system.executor.execute = spin  # type: ignore[attr-defined]
            yield target


def run(tries: int, slowdown: float, effort: str, model: str) -> None:
    """Measure `tries` sessions and print what their verdicts were."""
    command = (sys.executable, str(Path(__file__).resolve()), "--worker", str(slowdown))
    session = Session(cache_folder=paths.cache_folder(), worker_command=command)
    counts: dict[str, Counter[str]] = {"same recipe": Counter(), f"slowed by {slowdown:.0%}": Counter()}
    for number in range(tries):
        start_s = time.perf_counter()
        plan = Plan(model=model, spec=workload("chat"), recipes=(SAME, SAME, SLOWED), effort=effort, seed=number)
        rows = compare(session.measure(plan)).rows
        words = []
        for name, row in zip(counts, rows[-2:], strict=True):
            verdict = row.decision.verdict if row.decision else "refused"
            counts[name][verdict] += 1
            detail = f"{row.decision.ratio.value:.4f}; {row.decision.reason}" if row.decision else row.refusal
            words.append(f"{name}: {verdict} ({detail})")
        blocks = next((row.decision.num_blocks for row in rows if row.decision), 0)
        print(
            f"{number + 1}/{tries}: {'; '.join(words)}; {blocks} blocks, {time.perf_counter() - start_s:.0f} s",
            flush=True,
        )
    for name, count in counts.items():
        print(f"{name}: " + ", ".join(f"{verdict} {times}" for verdict, times in count.most_common()))


def main() -> int:
    """Parse the command line; as a worker, serve one session."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--slowdown", type=float, default=0.05)
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--model", default="pylm")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        return serve_session(SlowedOpener(arguments.worker))
    run(arguments.tries, arguments.slowdown, arguments.effort, arguments.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
