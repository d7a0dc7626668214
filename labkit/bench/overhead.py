"""Overhead: what the harness itself adds, measured with a System that does nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labkit.bench.measure import measure_pass
from labkit.core.cost import Cost
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Workload, WorkloadSpec

_REPEATS = 5
_NUM_EVENTS = 2000
_NUM_REQUESTS = 2000


class NullSystem:
    """Answers at once with zeros and stamps every output, as any System must."""

    def prepare(self, workload: Workload) -> Workload:
        """Nothing to prepare."""
        return workload

    def relocate(self) -> None:
        """Nothing is held."""

    def drop_caches(self) -> None:
        """Nothing is held."""

    def serve(self, prepared: Workload) -> Trace:
        """One time stamp an output, and no work."""
        start_ns = time.perf_counter_ns()
        traces = []
        for request in prepared.requests:
            sent_s = (time.perf_counter_ns() - start_ns) * 1e-9
            output_s: list[float] = []
            for _ in range(request.max_new_tokens):
                output_s.append((time.perf_counter_ns() - start_ns) * 1e-9)
            ids = (0,) * request.max_new_tokens
            traces.append(RequestTrace(sent_s, sent_s, sent_s, tuple(output_s), ids, request.prompt_tokens or 0))
        return Trace(tuple(traces), (time.perf_counter_ns() - start_ns) * 1e-9)

    def quality(self, effort: str) -> Mapping[str, float]:
        """Zeros have none."""
        return {}

    def cost(self, spec: WorkloadSpec) -> Cost:
        """Nothing is needed."""
        return Cost({})

    def facts(self) -> Mapping[str, Any]:
        """Nothing was built."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Overhead:
    """Seconds that the harness adds to a pass: inside the clock for each output, outside it for each request."""

    event_s: float
    request_s: float


def null_overhead() -> Overhead:
    """Measure the harness, best of 5, as slopes, so that what a pass costs once does not count.

    The goals are 0.5 µs an event and 50 µs a request.
    """
    system = NullSystem()
    few = WorkloadSpec("null", "offline", prompt_tokens=1, new_tokens=1, num_requests=1)
    deep = WorkloadSpec("null", "offline", prompt_tokens=1, new_tokens=_NUM_EVENTS + 1, num_requests=1)
    wide = WorkloadSpec("null", "offline", prompt_tokens=1, new_tokens=1, num_requests=_NUM_REQUESTS + 1)
    inside_s = {spec: min(_inside_s(system, spec) for _ in range(_REPEATS)) for spec in (few, deep)}
    outside_s = {spec: min(_outside_s(system, spec) for _ in range(_REPEATS)) for spec in (few, wide)}
    return Overhead(
        event_s=max(0.0, inside_s[deep] - inside_s[few]) / _NUM_EVENTS,
        request_s=max(0.0, outside_s[wide] - outside_s[few]) / _NUM_REQUESTS,
    )


def _inside_s(system: NullSystem, spec: WorkloadSpec) -> float:
    return measure_pass(system, spec, 0).trace.duration_s


def _outside_s(system: NullSystem, spec: WorkloadSpec) -> float:
    start_s = time.perf_counter()
    trace = measure_pass(system, spec, 0).trace
    return time.perf_counter() - start_s - trace.duration_s
