"""The interpreter's lock, measured: how much of a System's time is Python that keeps other threads from running.

Two Systems in two threads of one process share one lock, two in a process each do not; otherwise they compete for the
same cores and memory. What the first pair lacks against the second is the lock's doing. If each holds it for a share g
of its time when alone, at random moments, it waits g² of that time for the other (mean value analysis of a closed
network of two customers, Reiser and Lavenberg 1980), so the first pair reaches 1 / (1 + g²) of the second. Python and
nothing else, g = 1, gives one half.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from labkit.bench.measure import prime
from labkit.bench.system import System
from labkit.core.contention import CoreTime
from labkit.core.workload import WorkloadSpec


@dataclass(frozen=True)
class GilShare:
    """Outputs per second of one System alone, of two in threads of one process, and of two in a process each.

    `ratios` are processes over threads, round by round. `contention` is the share of core time that others took.
    """

    alone_per_s: float
    threads_per_s: float
    processes_per_s: float
    ratios: tuple[float, ...]
    contention: float = 0.0

    @property
    def share(self) -> float:
        """Part of its time that a System holds the lock (0 to 1), by the model above, from the median round."""
        return _share(median(self.ratios))

    @property
    def bounds(self) -> tuple[float, float]:
        """The same from the lowest and the highest round: of 7 rounds they miss the true median once in 64 times."""
        return _share(min(self.ratios)), _share(max(self.ratios))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"share": self.share, "bounds": self.bounds}


def measure_gil(systems: Sequence[System], pair: System, spec: WorkloadSpec, *, num_rounds: int) -> GilShare:
    """Measure what two Systems of this process and a `pair` of two processes do at the same work, in turns.

    `spec` has one request that is sent at once; the pair gets one for each of its processes. Rates are medians of the
    rounds, each of which has new prompts. Raises ValueError for anything but two Systems.
    """
    if len(systems) != 2:
        raise ValueError(f"systems: expected two, got {len(systems)}")
    both = WorkloadSpec(**{**spec.to_dict(), "num_requests": 2})
    for system in (*systems, pair):
        prime(system, spec)
    before = CoreTime.now()
    rounds = [
        (_together([systems[0]], spec, index), _together(systems, spec, index), _together([pair], both, index))
        for index in range(num_rounds)
    ]
    contention = max(0.0, before.contention(CoreTime.now()))
    alone, threads, processes = (median(rates) for rates in zip(*rounds, strict=True))
    return GilShare(alone, threads, processes, tuple(apart / shared for _, shared, apart in rounds), contention)


def _share(ratio: float) -> float:
    return min(1.0, math.sqrt(max(0.0, ratio - 1)))


def _together(systems: Sequence[System], spec: WorkloadSpec, index: int) -> float:
    """Outputs per second of all Systems, each serving a pass in a thread of its own."""
    prepared = [system.prepare(spec.draw(index)) for system in systems]
    with ThreadPoolExecutor(len(systems)) as pool:
        start_s = time.perf_counter()
        traces = list(pool.map(lambda each: each[0].serve(each[1]), zip(systems, prepared, strict=True)))
        duration_s = time.perf_counter() - start_s
    return float(sum(trace.num_outputs for trace in traces) / duration_s)
