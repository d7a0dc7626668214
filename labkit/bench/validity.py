"""Validity: the rules that a Run must keep for its figures to be used. A broken one becomes a Fault, never silence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from labkit.bench.loadgen import Lag
from labkit.core.contention import MAX_CONTENTION, resolution
from labkit.core.run import Fault, Pass
from labkit.core.trace import Trace

MIN_DRIFT = 0.03
MAX_DRIFT = 0.25  # however noisy the machine is: beyond it there is no speed to speak of
NOISE_FACTOR = 3.0
MAX_LIMIT_SHARE = 1.05
MAX_LAG_S = 5e-3
MAX_LAG_SHARE = 0.05  # of the median latency

Calibrations = tuple[float, float]
"""Seconds of the calibration kernel before and after a block."""


def max_drift(machine_noise: float) -> float:
    """Relative change of the calibration kernel that is still noise: max(3 %, 3 × its relative noise), at most 25 %."""
    return min(max(MIN_DRIFT, NOISE_FACTOR * machine_noise), MAX_DRIFT)


def drift(calibrations: Calibrations) -> float:
    """Relative change of the calibration kernel over a block, never negative."""
    before_s, after_s = calibrations
    return abs(after_s / before_s - 1)


def contention(passes: Iterable[Pass]) -> float:
    """Share of core time that others took over all these passes, beyond what may be chance in counting it."""
    weighted = [(measured.contention, measured.trace.duration_s) for measured in passes]
    duration_s = sum(seconds for _, seconds in weighted)
    if duration_s <= 0:
        return 0.0
    share = sum(share * seconds for share, seconds in weighted) / duration_s
    return max(0.0, share - resolution(len(weighted), duration_s))


def block_is_disturbed(calibrations: Calibrations, passes: Sequence[Pass], *, machine_noise: float) -> bool:
    """Whether a block should be run again: the machine changed speed over it, or others took too much of it."""
    return drift(calibrations) > max_drift(machine_noise) or contention(passes) > MAX_CONTENTION


def faults(
    passes: Sequence[Pass],
    *,
    calibrations: Sequence[Calibrations] = (),
    machine_noise: float = 0.0,
    limit_share: float | None = None,
    is_steady: bool = True,
    is_compared: bool = True,
    proof: Mapping[str, Any] | None = None,
    quality: Mapping[str, float] | None = None,
    nan_tensors: Sequence[str] = (),
    num_expected_outputs: Sequence[int] | None = None,
) -> tuple[Fault, ...]:
    """Every rule that a Run breaks, in a fixed order; empty for a valid one.

    `passes` and `calibrations` are those of the blocks that were kept, after reruns. `machine_noise` is relative.
    `num_expected_outputs` is what each request of a pass was to yield. What others took matters where it `is_compared`.
    Codes: `nan`, `proof`, `tokens`, `empty`, `unsteady`, `drift`, `contended`, `overload`, `limit`.
    """
    traces = [measured.trace for measured in passes]
    found = (
        _nan(nan_tensors, quality or {}),
        _proof(proof),
        _tokens(traces, num_expected_outputs),
        _empty(traces),
        _unsteady(is_steady),
        _drift(calibrations, machine_noise),
        _contended(contention(passes)) if is_compared else None,
        _overload(traces),
        _limit(limit_share),
    )
    return tuple(fault for fault in found if fault is not None)


def _nan(tensors: Sequence[str], quality: Mapping[str, float]) -> Fault | None:
    names = list(tensors) or [name for name, value in quality.items() if not math.isfinite(value)]
    if not names:
        return None
    where = "weights" if tensors else "quality"
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Fault(
        "nan", f"{where} not finite: {listed}", "finite numbers only", "check the checkpoint or use a wider dtype"
    )


def _proof(proof: Mapping[str, Any] | None) -> Fault | None:
    if proof is None or proof["is_equal"]:
        return None
    return Fault(
        "proof",
        f"{proof['num_diverged']} of {proof['num_prompts']} outputs differ from those without the exact techniques",
        "identical greedy tokens; 1 % may part where the top two logits are within 1e-4",
        "a technique said to be exact is not; report it and leave it out",
    )


def _tokens(traces: Sequence[Trace], num_expected: Sequence[int] | None) -> Fault | None:
    """A pass goes through all requests once or several times, whatever order it tells of them in."""
    for trace in traces if num_expected else ():
        expected = Counter(num_expected)
        counts = Counter(len(request.output_ids) for request in trace.requests)
        repeats = max(1, round(counts.total() / expected.total()))
        wrong = counts - Counter({num: repeats * times for num, times in expected.items()})
        if wrong or counts.total() != repeats * expected.total():
            seen = ", ".join(map(str, sorted(wrong))) or "no"
            least, most = min(expected), max(expected)
            allowed = f"{most} each" if least == most else f"{least} to {most}, as many as each request asked for"
            return Fault("tokens", f"requests with {seen} outputs", allowed, "unequal work cannot be compared")
    return None


def _empty(traces: Sequence[Trace]) -> Fault | None:
    if any(trace.num_outputs for trace in traces):
        return None
    return Fault(
        "empty", f"{len(traces)} passes without any output", "at least one output", "see the worker's last words"
    )


def _unsteady(is_steady: bool) -> Fault | None:
    if is_steady:
        return None
    return Fault(
        "unsteady",
        "pass times still changed when the warm-up ended",
        "three windows' medians within max(2 %, 3 × noise)",
        "use a higher effort or a quieter machine",
    )


def _drift(calibrations: Sequence[Calibrations], machine_noise: float) -> Fault | None:
    largest, allowed = max(map(drift, calibrations), default=0.0), max_drift(machine_noise)
    if largest <= allowed:
        return None
    return Fault(
        "drift",
        f"the machine's speed changed by {largest:.1%} over a block, after reruns",
        f"{allowed:.1%}",
        "fix the clock frequency, let the machine cool down or stop other work",
    )


def _contended(share: float) -> Fault | None:
    if share <= MAX_CONTENTION:
        return None
    return Fault(
        "contended",
        f"other processes or the hypervisor took {share:.0%} of core time",
        f"{MAX_CONTENTION:.0%}",
        "stop other work on this machine and measure again",
    )


def _overload(traces: Sequence[Trace]) -> Fault | None:
    lag = Lag.of(traces)
    latencies = [one.output_s[-1] - one.arrival_s for trace in traces for one in trace.requests if one.output_s]
    if lag is None or not latencies:
        return None
    allowed_s = max(MAX_LAG_S, MAX_LAG_SHARE * median(latencies))
    if lag.p99_s <= allowed_s:
        return None
    return Fault(
        "overload",
        f"the load generator sent its requests {lag.p99_s * 1e3:.1f} ms late at p99",
        f"{allowed_s * 1e3:.1f} ms",
        "lower the rate or use fewer threads, so that the generator gets a core",
    )


def _limit(share: float | None) -> Fault | None:
    if share is None or share <= MAX_LIMIT_SHARE:
        return None
    return Fault(
        "limit",
        f"{share:.0%} of what this machine can do",
        f"{MAX_LIMIT_SHARE:.0%}",
        "the cost or the ceilings are wrong: measure the ceilings again on a quiet machine",
    )
