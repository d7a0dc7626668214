"""Load: requests as they are sent to a System, by the clock or as others are done, and how late they were sent.

Open loop: requests are sent at their intended times whether or not the System keeps up, so a System that stalls is
charged for every request that arrived meanwhile (Tene's "coordinated omission" is what happens otherwise). Closed loop:
so many are outstanding at any time, and the next is meant to be sent the moment that one of them is done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from labkit.core.trace import Trace
from labkit.core.workload import Request, Scenario, Workload

_FINE_S = 2e-3  # before the intended time from which sleep goes in short steps: a long sleep may end late
_STEP_S = 2e-4
_SWITCH_S = 5e-4  # a tenth of Python's default: how long the serving thread may keep the interpreter from the generator


class Load(AbstractContextManager["Load"], Protocol):
    """Requests by index, as a serving loop sees them. It tells what is `done` and takes what is `due`."""

    @property
    def is_more_coming(self) -> bool:
        """Whether requests will come even if none of those that came is ever done."""

    def due(self) -> list[tuple[int, float]]:
        """Requests sent since the last call, as (index, time sent in seconds after the start). Never blocks."""

    def arrival_s(self, index: int) -> float:
        """When a request that was due was meant to be sent, in seconds after the start."""

    def done(self, index: int, at_s: float) -> None:
        """Note that a request was handed back whole at `at_s`."""

    def wait(self, timeout: float) -> bool:
        """Block until a request is due or `timeout` seconds have passed; whether one is due."""


def load_of(scenario: Scenario, requests: Sequence[Request], *, concurrency: int, start_ns: int) -> Load:
    """The load that a scenario stands for; the clock, `perf_counter_ns`, began at `start_ns`."""
    if scenario in ("single_stream", "closed_loop"):
        num = concurrency if scenario == "closed_loop" else 1
        return ClosedLoop([request.turn for request in requests], num, start_ns)
    return Arrivals([request.arrival_s for request in requests], start_ns)


class ClosedLoop:
    """Keeps `concurrency` requests outstanding, sent from the thread that serves them: there is no other to wait for.

    Request i is turn `turns[i]` of a conversation: one above 0 follows request i - 1, whose place it takes.
    """

    def __init__(self, turns: Sequence[int], concurrency: int, start_ns: int) -> None:
        self._turns, self._concurrency, self._start_ns = turns, concurrency, start_ns
        self._first_turns = iter([index for index, turn in enumerate(turns) if turn == 0])
        self._ready: list[int] = []
        self._arrivals_s: dict[int, float] = {}

    def __enter__(self) -> Self:
        now_s = self._now_s()
        for _ in range(self._concurrency):
            self._send(next(self._first_turns, None), now_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is left running."""

    @property
    def is_more_coming(self) -> bool:
        """Never by itself: to wait for more, as a batch that is to be full does, would be to wait forever."""
        return False

    def due(self) -> list[tuple[int, float]]:
        """See Load."""
        ready, self._ready = self._ready, []
        return [(index, self._now_s()) for index in ready]

    def arrival_s(self, index: int) -> float:
        """See Load."""
        return self._arrivals_s[index]

    def done(self, index: int, at_s: float) -> None:
        """See Load."""
        is_answered = index + 1 < len(self._turns) and self._turns[index + 1] > 0
        self._send(index + 1 if is_answered else next(self._first_turns, None), at_s)

    def wait(self, timeout: float) -> bool:
        """See Load; there is nothing to wait for."""
        return bool(self._ready)

    def _send(self, index: int | None, at_s: float) -> None:
        if index is not None:
            self._arrivals_s[index] = at_s
            self._ready.append(index)

    def _now_s(self) -> float:
        return (time.perf_counter_ns() - self._start_ns) * 1e-9


class Arrivals:
    """Sends requests at `times_s` (ascending seconds after `start_ns` on `perf_counter_ns`) from a thread of its own.

    A context manager: the thread lives inside it. Requests that are due at entry need no thread, so `offline` workloads
    start none.
    """

    def __init__(self, times_s: Sequence[float], start_ns: int) -> None:
        self._times_s = times_s
        self._start_ns = start_ns
        self._sent: SimpleQueue[tuple[int, float]] = SimpleQueue()
        self._waited_for: list[tuple[int, float]] = []
        self._num_handed_over = 0
        self._stop = Event()
        self._thread: Thread | None = None
        self._switch_interval_s = sys.getswitchinterval()

    def __enter__(self) -> Self:
        num_due = 0
        while num_due < len(self._times_s) and self._times_s[num_due] <= self._now_s():
            self._sent.put((num_due, self._now_s()))
            num_due += 1
        if num_due < len(self._times_s):
            sys.setswitchinterval(_SWITCH_S)
            self._thread = Thread(target=self._send, args=(num_due,), name="load generator", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            sys.setswitchinterval(self._switch_interval_s)

    @property
    def is_exhausted(self) -> bool:
        """Whether every request has been handed over by `due`."""
        return self._num_handed_over == len(self._times_s)

    @property
    def is_more_coming(self) -> bool:
        """See Load."""
        return not self.is_exhausted

    def arrival_s(self, index: int) -> float:
        """See Load."""
        return self._times_s[index]

    def done(self, index: int, at_s: float) -> None:
        """See Load; nothing depends on it."""

    def due(self) -> list[tuple[int, float]]:
        """Requests sent since the last call, as (index, time sent in seconds after the start). Never blocks."""
        sent, self._waited_for = self._waited_for, []
        try:
            while True:
                sent.append(self._sent.get_nowait())
        except Empty:
            self._num_handed_over += len(sent)
            return sent

    def wait(self, timeout: float) -> bool:
        """Block until a request is due or `timeout` seconds have passed; whether one is due."""
        if not self._waited_for and not self.is_exhausted:
            try:
                self._waited_for.append(self._sent.get(timeout=timeout))
            except Empty:
                return False
        return bool(self._waited_for)

    def _send(self, first: int) -> None:
        for index in range(first, len(self._times_s)):
            while (left_s := self._times_s[index] - self._now_s()) > 0:
                if left_s > _FINE_S:
                    self._stop.wait(left_s - _FINE_S)
                else:
                    time.sleep(min(left_s, _STEP_S))
                if self._stop.is_set():
                    return
            self._sent.put((index, self._now_s()))

    def _now_s(self) -> float:
        return (time.perf_counter_ns() - self._start_ns) * 1e-9


def batches(workload: Workload, size: int | None, start_ns: int) -> Iterator[list[tuple[int, float, float]]]:
    """(index, arrival_s, sent_s) of the requests of each batch, once they are there.

    A batch is what waits when the one before is done, at most `size` requests (None: all), the first come first.
    """
    num_left, waiting = len(workload.requests), list[tuple[int, float, float]]()
    load = load_of(workload.scenario, workload.requests, concurrency=workload.concurrency, start_ns=start_ns)
    with load:
        while num_left:
            waiting += [(index, load.arrival_s(index), sent_s) for index, sent_s in load.due()]
            if not waiting:
                load.wait(timeout=1.0)
                continue
            cut = size or len(waiting)
            batch, waiting = waiting[:cut], waiting[cut:]
            num_left -= len(batch)
            yield batch
            done_s = (time.perf_counter_ns() - start_ns) * 1e-9
            for index, _, _ in batch:
                load.done(index, done_s)


@dataclass(frozen=True)
class Lag:
    """How late requests were sent, in seconds after their intended time."""

    p50_s: float
    p99_s: float
    max_s: float
    num_requests: int

    @classmethod
    def of(cls, traces: Iterable[Trace]) -> Lag | None:
        """Lag over all requests, None where there are none.

        Of what was sent, not an estimate of what might be: below 100 requests the p99 is the largest.
        """
        lags = [request.sent_s - request.arrival_s for trace in traces for request in trace.requests]
        if not lags:
            return None
        p50_s, p99_s, max_s = np.percentile(lags, (50, 99, 100), method="inverted_cdf")
        return cls(float(p50_s), float(p99_s), float(max_s), len(lags))
