"""Measuring one System in its own process: warm it up, run passes, and know what the measuring itself costs."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from labkit.bench.system import System
from labkit.core.contention import CoreTime
from labkit.core.effort import EFFORTS
from labkit.core.errors import UsageError
from labkit.core.metrics import pass_values
from labkit.core.stats import FloatArray
from labkit.core.trace import Trace
from labkit.core.workload import WorkloadSpec

MIN_NEW_TOKENS = 2  # a pass that decodes at all

_NUM_WINDOWS = 3
_PASSES_PER_WINDOW = 3
_MIN_LOOKS = 4  # at three windows, before a System counts as unsteady: noise alone spreads one in ten too far
_AGREEMENT = 0.02
_NOISE_FACTOR = 3.0
_NORMAL = 1.4826  # median absolute deviation → standard deviation, for normal noise
_MIN_CHANGES = 5

_PRIME_S = 0.05  # seen after a pause: stalls of some milliseconds each, over by then

_CALIBRATION_REPEATS = 3
_CALIBRATION_SHAPE = (16, 64, 64)  # matrices that stay in the second-level cache, too small to be spread over threads
_CALIBRATION_GEMMS = 32
_CALIBRATION_STREAM_BYTES = 2**26  # more than most last-level caches


class Measured(NamedTuple):
    """One pass: its Trace and the share of core time (0 to 1) that other processes took meanwhile."""

    trace: Trace
    contention: float


@dataclass(frozen=True)
class Warmup:
    """How a System came up to speed.

    Attributes:
        warmup_s: seconds from the first pass to the last, all that is compiled or probed on first use included.
        is_steady: whether the last three windows agreed before the cap.
        num_passes: how many passes were looked at.
        pass_s: seconds that a pass of all its new tokens takes; foretold where `token_share` is below 1.
        token_share: part of the new tokens that the warm-up's passes ran, and that measured ones should.
        repeats: how often a measured pass should go through the requests.
        calibrations_s: seconds of the calibration kernel after each pass: the pilot of the machine's own noise.
    """

    warmup_s: float
    is_steady: bool
    num_passes: int
    pass_s: float
    token_share: float
    repeats: int
    calibrations_s: tuple[float, ...]


def warm_up(system: System, spec: WorkloadSpec, *, effort: str, is_known: bool = False) -> Warmup:
    """Run passes until three windows' medians agree within max(2 %, 3 × noise), or the effort's cap has passed.

    Between passes the calibration kernel runs: a System cannot be steadier than the machine under it.

    A window is three passes, or one where nine would not fit in the cap; three windows are always run, and past the cap
    only as many more passes as it takes to look four times. What the first pass compiles or probes has no cap. Passes
    have the shape of the measured ones and prompts that no measured pass has. A System too slow for the effort's pass
    length is found out with two new tokens and warmed up with as many as fit; under load, or where lengths differ, it
    runs them all, since what joins and leaves a batch when is what is measured. Where the System `is_known` to become
    steady, from an earlier process, three passes have to do; an effort that compares nothing takes the first for it.

    Raises:
        UsageError: no effort has that name, or the System cannot serve the workload.
    """
    if effort not in EFFORTS:
        raise UsageError.unknown("effort", effort, EFFORTS)
    limits, indices, start_s = EFFORTS[effort], count(-1, -1), time.perf_counter()
    token_share, ready_s = 1.0, start_s
    if spec.scenario != "server":
        least = shortened(spec, 0.0)
        _pass(system, least, next(indices))  # what is done once, on first use, does not count
        ready_s = time.perf_counter()
        has_tokens = least.num_new_tokens < spec.num_new_tokens
        if has_tokens and spec.scenario != "closed_loop" and spec.min_new_tokens is None:
            token_share = limits.token_share(_whole_pass_s(_pass(system, least, next(indices)).trace, least, spec))
    fitting = shortened(spec, token_share)
    passes_s: list[float] = []
    calibrations_s: list[float] = []
    while True:
        trace = _pass(system, fitting, next(indices)).trace
        passes_s.append(trace.duration_s)
        calibrations_s.append(calibrate())
        window = _PASSES_PER_WINDOW if _NUM_WINDOWS * _PASSES_PER_WINDOW * passes_s[-1] <= limits.warmup_cap_s else 1
        steady = is_steady(passes_s, window=window, machine_noise=machine_noise([calibrations_s]))
        end_s = time.perf_counter()
        num_looks = len(passes_s) - _NUM_WINDOWS * window + 1
        is_over = num_looks >= _MIN_LOOKS and end_s - ready_s >= limits.warmup_cap_s
        steady |= not limits.can_compare
        if steady or is_over or (is_known and len(passes_s) == _NUM_WINDOWS):
            pass_s = _whole_pass_s(trace, fitting, spec)
            # the second request of a cold pass would find what the first one left
            can_repeat = spec.scenario == "single_stream" and spec.cache_state == "warm"
            repeats = limits.repeats(float(np.median(passes_s))) if can_repeat else 1
            return Warmup(end_s - start_s, steady, len(passes_s), pass_s, token_share, repeats, tuple(calibrations_s))


def is_steady(passes_s: Sequence[float], *, window: int, machine_noise: float = 0.0) -> bool:
    """Whether the medians of the last three windows of pass times agree within max(2 %, 3 × noise).

    The noise is the larger of the machine's own and that of the passes, taken from second differences, which a steady
    trend leaves at zero: a System that is still getting faster must not pass for a noisy one.
    """
    if len(passes_s) < _NUM_WINDOWS * window:
        return False
    last = np.log(passes_s[-_NUM_WINDOWS * window :])
    medians = np.median(last.reshape(_NUM_WINDOWS, window), axis=1)
    noise = math.sqrt(float(np.mean(np.diff(last, n=2) ** 2)) / 6)  # 6: variance of x - 2y + z
    return float(np.ptp(medians)) <= max(_AGREEMENT, _NOISE_FACTOR * max(noise, machine_noise))


def machine_noise(calibrations_s: Iterable[Sequence[float]]) -> float:
    """Relative noise of the machine's speed, from seconds of the calibration kernel in several stretches of time.

    A robust standard deviation around each stretch's own median, so that neither one interruption nor a machine that
    warms up between stretches counts as noise. 0 without readings.
    """
    stretches = [np.log(stretch) for stretch in calibrations_s if len(stretch)]
    if not stretches:
        return 0.0
    return float(_NORMAL * np.median(np.abs(np.concatenate([logs - np.median(logs) for logs in stretches]))))


def change_noise(calibrations_s: Sequence[float]) -> float:
    """Relative noise of one reading of the calibration kernel, from the changes between successive ones.

    Robust: a machine that changes its speed now and then still stands out against it. 0 below six readings.
    """
    if len(calibrations_s) <= _MIN_CHANGES:
        return 0.0
    changes = np.abs(np.diff(np.log(calibrations_s)))
    return float(_NORMAL * np.median(changes) / math.sqrt(2))  # a change has the variance of two readings


def measure_pass(
    system: System, spec: WorkloadSpec, index: int, *, token_share: float = 1.0, repeats: int = 1
) -> Measured:
    """Measure pass `index` (0 or more): prompts drawn and prepared outside the clock, garbage collection off inside it.

    Before it the System moves to other memory, so that the pages it happened to get do not pass for its speed, and runs
    unmeasured for a moment, so that neither does what the machine has to do after a pause. A pass that would be too
    short to be told from noise goes through its requests `repeats` times, with new prompts. For a `cold` workload, what
    that moment and earlier passes left is dropped before the clock runs. Source: Mytkowicz et al., Producing Wrong Data
    Without Doing Anything Obviously Wrong (2009); Curtsinger and Berger, STABILIZER (2013).

    Raises:
        UsageError: the System cannot serve the workload. ValueError: a negative index, which warm-up passes have.
    """
    if index < 0:
        raise ValueError(f"index: expected 0 or more, got {index}; negative ones are for warm-up")
    fitting = shortened(spec, token_share)
    system.relocate()
    prime(system, spec)
    return _pass(system, fitting, index, repeats=repeats)


def settle(system: System, spec: WorkloadSpec, *, token_share: float) -> None:
    """Run a pass that nobody measures, after something that left the System other than its passes do."""
    _pass(system, shortened(spec, token_share), -1)


def prime(system: System, spec: WorkloadSpec) -> None:
    """Serve single short requests for a moment, at least one: threads find their cores, caches fill, clocks rise."""
    one = shortened(spec.first(), 0.0)
    prepared, start_s = system.prepare(one.draw(-1)), time.perf_counter()
    while True:
        system.serve(prepared)
        if time.perf_counter() - start_s >= _PRIME_S:
            return


def shortened(spec: WorkloadSpec, token_share: float) -> WorkloadSpec:
    """The workload with this share of its new tokens: at least 2, at most all. What a slow recipe runs."""

    def share(tokens: int) -> int:
        return min(tokens, max(MIN_NEW_TOKENS, round(token_share * tokens)))

    return replace(
        spec,
        new_tokens=share(spec.new_tokens),
        min_new_tokens=None if spec.min_new_tokens is None else share(spec.min_new_tokens),
        replay=tuple(line._replace(new_tokens=share(line.new_tokens)) for line in spec.replay),
    )


def calibrate() -> float:
    """Seconds of a fixed NumPy kernel of 10 to 20 ms, best of three: changes when the machine does, not when we do.

    Half of it multiplies matrices in cache (clock speed), half reads memory (bandwidth and other readers), on one core:
    what threads wait for each other is the scheduler's doing, which contention accounts for.
    """
    matrices, stream = _calibration_data()
    product = np.empty_like(matrices)
    best_ns = math.inf
    for _ in range(_CALIBRATION_REPEATS):
        start_ns = time.perf_counter_ns()
        for _ in range(_CALIBRATION_GEMMS):
            np.matmul(matrices, matrices, out=product)
        stream.sum()
        best_ns = min(best_ns, time.perf_counter_ns() - start_ns)
    return best_ns * 1e-9


@lru_cache(maxsize=1)
def _calibration_data() -> tuple[npt.NDArray[np.float32], FloatArray]:
    return np.full(_CALIBRATION_SHAPE, 1 / 64, dtype=np.float32), np.ones(_CALIBRATION_STREAM_BYTES // 8)


def _whole_pass_s(trace: Trace, fitting: WorkloadSpec, spec: WorkloadSpec) -> float:
    """Seconds of a pass over `spec`, foretold from one that ran fewer new tokens at the rate of its decoding."""
    rate = pass_values(trace).get("decode_tok_per_s")
    num_left = spec.num_new_tokens - fitting.num_new_tokens
    return trace.duration_s + (num_left / rate if rate is not None else 0.0)


def _pass(system: System, spec: WorkloadSpec, index: int, *, repeats: int = 1) -> Measured:
    prepared = system.prepare(spec.draw(index, repeats=repeats))
    if spec.cache_state == "cold":
        system.drop_caches()
    with garbage_kept():
        before = CoreTime.now()
        trace = system.serve(prepared)
        after = CoreTime.now()
    return Measured(trace, before.contention(after))


@contextmanager
def garbage_kept() -> Iterator[None]:
    """No collection inside; what is alive at entry is not looked at again until the end."""
    was_enabled = gc.isenabled()
    gc.collect(1)  # the young: what the last pass left; all of a worker's objects would take longer than many a pass
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
