"""The interpreter's lock, between Systems that hold it for a known share of their time."""

import time
from typing import Any

import pytest

from labkit.bench.gil import GilShare, measure_gil
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Workload, WorkloadSpec

SPEC = WorkloadSpec("gil", "offline", prompt_tokens=4, new_tokens=8)
TOKEN_S = 0.01


class Busy:
    """Computes for a share of each token in Python, which holds the lock, and sleeps for the rest, which does not."""

    def __init__(self, python: float) -> None:
        self._python = python

    def prepare(self, workload: Workload) -> Workload:
        return workload

    def serve(self, prepared: Workload) -> Trace:
        start_s = time.perf_counter()
        traces = []
        for request in prepared.requests:
            output_s = []
            for _ in range(request.max_new_tokens):
                spent_s = time.thread_time()
                while time.thread_time() - spent_s < self._python * TOKEN_S:
                    pass
                time.sleep((1 - self._python) * TOKEN_S)
                output_s.append(time.perf_counter() - start_s)
            traces.append(RequestTrace(0.0, 0.0, 0.0, tuple(output_s), tuple(range(len(output_s))), 4))
        return Trace(tuple(traces), time.perf_counter() - start_s)


class Apart:
    """Stands for two processes: both requests take as long as one."""

    def __init__(self, python: float) -> None:
        self._one = Busy(python)

    def prepare(self, workload: Workload) -> Workload:
        return workload

    def serve(self, prepared: Workload) -> Trace:
        trace = self._one.serve(Workload(prepared.name, prepared.scenario, prepared.requests[:1]))
        return Trace((*trace.requests, *trace.requests), trace.duration_s)


def measured(python: float) -> GilShare:
    systems: list[Any] = [Busy(python), Busy(python)]
    apart: Any = Apart(python)
    return measure_gil(systems, apart, SPEC, num_rounds=3)


@pytest.mark.parametrize(("share", "reached"), [(0.0, 1.0), (0.5, 0.8), (1.0, 0.5)])
def test_the_share_follows_from_what_two_threads_reach(share: float, reached: float) -> None:
    found = GilShare(100.0, 200.0 * reached, 200.0, (1 / reached, 1.0, 1 / reached))
    assert found.share == pytest.approx(share)
    assert found.bounds == pytest.approx((0.0, share))


def test_threads_that_are_ahead_hold_nothing_and_no_share_is_above_all() -> None:
    assert GilShare(100.0, 210.0, 200.0, (0.95,)).share == 0
    assert GilShare(100.0, 60.0, 200.0, (3.3,)).share == 1


def test_python_alone_holds_the_lock_and_sleep_does_not() -> None:
    alone = measured(1.0)
    assert alone.share > 0.6
    assert len(alone.ratios) == 3
    assert measured(0.0).share < 0.4


def test_it_takes_two() -> None:
    one: Any = Busy(0.0)
    with pytest.raises(ValueError, match="expected two, got 1"):
        measure_gil([one], one, SPEC, num_rounds=1)
