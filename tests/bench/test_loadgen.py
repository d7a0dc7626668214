import sys
import threading
import time

import numpy as np
import pytest

from labkit.bench.loadgen import Arrivals, ClosedLoop, Lag, load_of
from labkit.core.metrics import summarize
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Request, Workload


def drain(arrivals):
    sent = []
    while not arrivals.is_exhausted:
        arrivals.wait(timeout=1.0)
        sent += arrivals.due()
    return sent


def test_requests_come_in_order_and_never_before_their_time():
    times_s = [0.0, 0.002, 0.01, 0.01, 0.03]
    with Arrivals(times_s, time.perf_counter_ns()) as arrivals:
        sent = drain(arrivals)
    assert [index for index, _ in sent] == [0, 1, 2, 3, 4]
    assert all(sent_s >= due_s for (_, sent_s), due_s in zip(sent, times_s, strict=True))


def test_what_is_due_at_the_start_needs_no_thread():
    before = threading.active_count()
    with Arrivals([0.0] * 8, time.perf_counter_ns()) as arrivals:
        assert threading.active_count() == before
        assert [index for index, _ in arrivals.due()] == list(range(8))
        assert arrivals.is_exhausted
        assert arrivals.due() == []


def test_due_never_blocks_and_wait_ends_with_the_first_that_is_due():
    with Arrivals([0.05], time.perf_counter_ns()) as arrivals:
        assert arrivals.due() == []
        assert not arrivals.wait(timeout=0.001)
        assert arrivals.wait(timeout=2.0)
        assert not arrivals.is_exhausted
        assert arrivals.wait(timeout=0.0), "what was waited for stays due until it is handed over"
        assert [index for index, _ in arrivals.due()] == [0]
        assert not arrivals.wait(timeout=60.0), "nothing more will come"


def test_leaving_early_ends_the_thread_and_restores_the_interpreter():
    interval_s, num_threads = sys.getswitchinterval(), threading.active_count()
    start_s = time.perf_counter()
    with Arrivals([60.0], time.perf_counter_ns()):
        assert threading.active_count() == num_threads + 1
    assert time.perf_counter() - start_s < 5
    assert threading.active_count() == num_threads
    assert sys.getswitchinterval() == interval_s


def test_lag_is_what_was_sent_late():
    requests = tuple(RequestTrace(1.0, 1.0 + 0.001 * k, 2.0, (), (), 1) for k in range(1, 101))
    lag = Lag.of([Trace(requests, 3.0)])
    assert (lag.p50_s, lag.p99_s, lag.max_s) == pytest.approx((0.05, 0.099, 0.1))
    assert lag.num_requests == 100
    assert Lag.of([]) is None


def test_a_stall_of_one_second_shows_in_p99_as_theory_says(known_system):
    """Requests that arrive in the stall wait for its end: no coordinated omission."""
    num, gap_s, stall_s, stalled = 700, 0.003, 1.0, 200
    service_s = [stall_s if k == stalled else 0.0 for k in range(num)]
    times_s = [0.01 + gap_s * k for k in range(num)]
    system = known_system(lambda k: service_s[k])
    workload = Workload("stall", "server", tuple(Request("", 1, 1, at_s) for at_s in times_s))

    trace = system.serve(system.prepare(workload))

    finish_s, expected_s = 0.0, []
    for at_s, needed_s in zip(times_s, service_s, strict=True):  # Lindley's recursion
        finish_s = max(finish_s, at_s) + needed_s
        expected_s.append(finish_s - at_s)
    theory_s = np.percentile(expected_s, 99, method="inverted_cdf")
    assert theory_s == pytest.approx(stall_s - 7 * gap_s, abs=gap_s)
    metrics = summarize([trace], scenario="server")
    assert metrics["e2e_s.p99"]["value"] == pytest.approx(theory_s, rel=0.05)
    assert metrics["ttft_s.p99"]["value"] == pytest.approx(theory_s, rel=0.05)


def test_a_closed_loop_keeps_so_many_outstanding_and_sends_the_next_when_one_is_done():
    with ClosedLoop([0] * 5, 2, time.perf_counter_ns()) as load:
        assert [index for index, _ in load.due()] == [0, 1]
        assert load.due() == []
        assert not load.is_more_coming, "a batch that waits to be full would wait forever"
        load.done(1, 7.0)
        assert load.wait(timeout=60.0)
        assert [index for index, _ in load.due()] == [2]
        assert load.arrival_s(2) == 7.0
        for index in (0, 2, 3, 4):
            load.done(index, 8.0)
        assert [index for index, _ in load.due()] == [3, 4]
        assert load.due() == []


def test_a_turn_is_sent_when_the_one_before_is_answered_and_then_another_conversation_begins():
    with ClosedLoop([0, 1, 2, 0, 1, 2, 0], 2, time.perf_counter_ns()) as load:
        sent = [index for index, _ in load.due()]
        assert sent == [0, 3]
        for answered, following in ((3, 4), (0, 1), (4, 5), (5, 6), (1, 2)):
            load.done(answered, 1.0)
            assert [index for index, _ in load.due()] == [following]


def test_a_scenario_says_how_requests_are_sent():
    requests = tuple(Request("", 1, 1, at_s) for at_s in (0.0, 60.0))
    for scenario, num_due in (("single_stream", 1), ("closed_loop", 2), ("server", 1)):
        with load_of(scenario, requests, concurrency=2, start_ns=time.perf_counter_ns()) as load:
            assert len(load.due()) == num_due
            assert load.is_more_coming == (scenario == "server")
