"""Systems with known delays, for tests of what measures them."""

import time

import pytest

from labkit.bench import measure
from labkit.bench.loadgen import Arrivals
from labkit.core.cost import Cost
from labkit.core.trace import RequestTrace, Trace


class WallClock:
    """The real time."""

    def perf_counter(self):
        return time.perf_counter()

    def perf_counter_ns(self):
        return time.perf_counter_ns()

    def sleep(self, seconds):
        time.sleep(max(0.0, seconds))


class FakeClock(WallClock):
    """A time that passes only where something sleeps."""

    def __init__(self):
        self.now_s = 100.0

    def perf_counter(self):
        return self.now_s

    def perf_counter_ns(self):
        return round(self.now_s * 1e9)

    def sleep(self, seconds):
        self.now_s += max(0.0, seconds)


class KnownSystem:
    """Serves one request after another with exactly known delays, by the wall clock or a fake one.

    `first_s(k)` and `gap_s(k)` are the time to the first output and between outputs of the k-th request served.
    """

    def __init__(self, first_s, gap_s=lambda k: 0.0, *, clock=None):
        self._delays = first_s, gap_s
        self._clock = clock or WallClock()
        self._num_served = 0
        self.served = []

    def prepare(self, workload):
        return workload

    def relocate(self):
        pass

    def drop_caches(self):
        pass

    def serve(self, prepared):
        self.served.append(prepared)
        start_s = self._clock.perf_counter()
        traces = []
        if isinstance(self._clock, FakeClock):
            for request in prepared.requests:
                self._clock.sleep(start_s + request.arrival_s - self._clock.perf_counter())
                traces.append(self._serve_one(request, request.arrival_s, start_s))
            return Trace(tuple(traces), self._clock.perf_counter() - start_s)
        with Arrivals([request.arrival_s for request in prepared.requests], time.perf_counter_ns()) as arrivals:
            while not arrivals.is_exhausted:
                arrivals.wait(timeout=1.0)
                for index, sent_s in arrivals.due():
                    traces.append(self._serve_one(prepared.requests[index], sent_s, start_s))
        return Trace(tuple(traces), self._clock.perf_counter() - start_s)

    def _serve_one(self, request, sent_s, start_s):
        first_s, gap_s = (delay(self._num_served) for delay in self._delays)
        self._num_served += 1
        scheduled_s = self._clock.perf_counter() - start_s
        output_s = []
        for index in range(request.max_new_tokens):
            due_s = start_s + scheduled_s + first_s + index * gap_s
            self._clock.sleep(due_s - self._clock.perf_counter())
            output_s.append(self._clock.perf_counter() - start_s)
        ids = tuple(range(request.max_new_tokens))
        return RequestTrace(request.arrival_s, sent_s, scheduled_s, tuple(output_s), ids, request.prompt_tokens)

    def quality(self, effort):
        return {}

    def cost(self, spec):
        return Cost({})

    def facts(self):
        return {}

    def close(self):
        pass


@pytest.fixture
def known_system():
    """The class `KnownSystem`, to build or to derive from."""
    return KnownSystem


@pytest.fixture
def clock(monkeypatch):
    """A fake clock that `bench.measure` goes by, on a machine without noise."""
    fake = FakeClock()
    monkeypatch.setattr(measure, "time", fake)
    monkeypatch.setattr(measure, "calibrate", lambda: 0.01)
    return fake
