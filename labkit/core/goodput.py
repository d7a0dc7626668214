"""Serving under load: whether a System keeps up with what is sent, and how many requests a second it serves well.

A pass begins with nothing to do and ends when nothing is left, so its first third, while requests fill the System, is
passed over: rates and growth are read between the middle and the last third of the requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from labkit.core.errors import UsageError
from labkit.core.inference import sign_flip_interval
from labkit.core.metrics import LATENCIES
from labkit.core.stats import Estimate
from labkit.core.trace import RequestTrace, Trace

MIN_REQUESTS = 6
"""Fewest requests of a pass whose rates can be told."""

KEPT_SHARE = 0.95
"""Of the offered rate that has to be completed."""

MAX_GROWTH = 0.05
"""Seconds that the time in the queue may grow by in each second."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The longest time to first token and per later token, in seconds, with which a request is served well.

    Raises:
        UsageError: a limit is no positive number.
    """

    ttft_s: float
    tpot_s: float

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"limit {name} is {value!r}; allowed: seconds above 0, such as 0.5")

    def are_met_by(self, request: RequestTrace) -> bool:
        """Whether a request was served within both; one of a single token has no time per later one."""
        if not request.output_s:
            return False
        is_slow = any(tpot_s > self.tpot_s for tpot_s in LATENCIES["tpot_s"](request))
        return not is_slow and LATENCIES["ttft_s"](request)[0] <= self.ttft_s


@dataclass(frozen=True)
class Service:
    """How a System stood up to a load: requests a second that were sent and done, and growth of the time in the queue.

    `growth` is in seconds per second: 0.1 for requests that come 10 % faster than they are begun.
    """

    offered_per_s: float
    completed_per_s: float
    growth: float

    @property
    def completed_share(self) -> float:
        """Part of what was sent that was done meanwhile; above 1 where a queue grew shorter."""
        return self.completed_per_s / self.offered_per_s

    @property
    def is_kept_up(self) -> bool:
        """Whether at least 95 % of what was sent was done meanwhile, and the queue did not grow."""
        return self.completed_share >= KEPT_SHARE and self.growth <= MAX_GROWTH


def service(traces: Sequence[Trace]) -> Service | None:
    """The median pass; None where a pass has too few requests, or they were all sent or done at once."""
    found = [_service(trace) for trace in traces if len(trace.requests) >= MIN_REQUESTS]
    told = [each for each in found if each is not None]
    if not told or len(told) < len(traces):
        return None
    return Service(*(median(values) for values in zip(*map(_values, told), strict=True)))


def goodput(traces: Sequence[Trace], limits: Limits) -> Estimate | None:
    """`goodput_per_s`: the rate at which requests were done, times the share of them within the limits; None likewise.

    Mean over passes with its sign-flip interval. Source: Zhong et al., DistServe (2024), which calls the highest such
    rate goodput; here it is that of the load at hand, as vLLM's benchmark states it.
    """
    rates = [(_service(trace), trace) for trace in traces if len(trace.requests) >= MIN_REQUESTS]
    values = [
        found.completed_per_s * fmean(map(limits.are_met_by, trace.requests))
        for found, trace in rates
        if found is not None
    ]
    return sign_flip_interval(values, level=0.95) if values and len(values) == len(traces) else None


def _service(trace: Trace) -> Service | None:
    served = sorted((one for one in trace.requests if one.output_s), key=lambda one: one.arrival_s)
    if len(served) < len(trace.requests):
        return None
    sent_s, done_s = [one.arrival_s for one in served], sorted(one.output_s[-1] for one in served)
    queue_s = [one.scheduled_s - one.arrival_s for one in served]
    num, sent_in_s, done_in_s = len(served) // 3, _advance(sent_s), _advance(done_s)
    if sent_in_s <= 0 or done_in_s <= 0:
        return None
    return Service(num / sent_in_s, num / done_in_s, _advance(queue_s) / sent_in_s)


def _advance(values: Sequence[float]) -> float:
    """From the mean of the middle third to that of the last one, which averages out who happens to be on the edge."""
    num = len(values) // 3
    return fmean(values[-num:]) - fmean(values[-2 * num : -num])


def _values(found: Service) -> tuple[float, float, float]:
    return found.offered_per_s, found.completed_per_s, found.growth
