"""Serving under load, on traces of simulated queues."""

import pytest

from labkit.core.errors import UsageError
from labkit.core.goodput import Limits, goodput, service
from tests.runner.queues import served

LIMITS = Limits(ttft_s=0.5, tpot_s=0.05)


@pytest.mark.parametrize(("rate", "is_kept_up"), [(1.0, True), (9.6, True), (11.0, False), (20.0, False)])
def test_a_queue_keeps_up_until_requests_come_faster_than_they_are_served(rate: float, *, is_kept_up: bool) -> None:
    found = service([served(rate, 0.1, cv=0.0, num=60)])
    assert found is not None
    assert found.offered_per_s == pytest.approx(rate)
    assert found.completed_per_s == pytest.approx(min(rate, 10.0), rel=1e-6)
    assert found.growth == pytest.approx(max(0.0, rate / 10 - 1), abs=1e-9)
    assert found.is_kept_up == is_kept_up


def test_filling_up_at_the_start_and_draining_at_the_end_do_not_count() -> None:
    """Each request takes five gaps between arrivals, side by side: over the whole pass a third of the time is edges."""
    found = service([served(10.0, 0.5, cv=0.0, num=30, num_servers=8)])
    assert found is not None
    assert found.completed_per_s == pytest.approx(10.0)
    assert found.is_kept_up


def test_goodput_counts_requests_within_both_limits() -> None:
    fast = goodput([served(5.0, 0.1, cv=0.0, num=30)] * 8, LIMITS)
    assert fast is not None
    assert fast.value == pytest.approx(5.0)
    crowded = served(20.0, 0.1, cv=0.0, num=30)  # request i waits i × 0.05 s: the first ten are in time
    some = goodput([crowded] * 8, LIMITS)
    assert some is not None
    assert some.value == pytest.approx(10.0 * 10 / 30)
    slow_tokens = goodput([served(5.0, 0.1, cv=0.0, num=30)], Limits(ttft_s=0.5, tpot_s=0.001))
    assert slow_tokens is not None
    assert slow_tokens.value == 0


def test_nothing_is_said_of_too_few_requests() -> None:
    assert service([served(5.0, 0.1, cv=0.0, num=5)]) is None
    assert goodput([served(5.0, 0.1, cv=0.0, num=5)], LIMITS) is None
    assert service([]) is None


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_a_positive_time(limit: float) -> None:
    with pytest.raises(UsageError, match=r"limit tpot_s is .*; allowed: seconds above 0"):
        Limits(ttft_s=1.0, tpot_s=limit)
