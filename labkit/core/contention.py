"""Contention: the share of this machine's core time that went to others while something was measured."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MAX_CONTENTION = 0.1
"""More than daemons take of all core time, less than half a core of a small machine; what met more is not believed."""

_LOOK_S = 0.25  # long enough for ticks to tell MAX_CONTENTION from none
_PERIOD_S = 5.0  # in which one look is enough: a build asks for every shape of its matrices
_STAT = Path("/proc/stat")
_TASKS = Path("/proc/self/task")
_IDLE = (3, 4)  # fields of a cpu line: idle, iowait
_COUNTED = 8  # user nice system idle iowait irq softirq steal; guest time is inside user time already


@dataclass(frozen=True)
class CoreTime:
    """Core time so far, in seconds: of all work on the cores we may use, with what the hypervisor took, and of ours."""

    wall_s: float
    busy_s: float | None
    own_s: float
    num_cores: int

    @classmethod
    def now(cls) -> CoreTime:
        """Read the clocks. `busy_s` is None where there is no /proc/stat."""
        cores = _cores()
        return cls(time.perf_counter(), _busy_s(cores), _own_s(), len(cores))

    def contention(self, later: CoreTime) -> float:
        """Share of core time (up to 1) that others took until `later`; 0 where the system does not tell.

        The kernel counts in ticks of 10 ms, so that of a short interval may even be below 0: judge several together,
        see `resolution`.
        """
        elapsed_s = (later.wall_s - self.wall_s) * self.num_cores
        if self.busy_s is None or later.busy_s is None or elapsed_s <= 0:
            return 0.0
        alien_s = (later.busy_s - self.busy_s) - (later.own_s - self.own_s)
        return min(1.0, alien_s / elapsed_s)


def is_worth_repeating(contention: float) -> bool:
    """Whether a measurement that met this contention was disturbed, and others take half as much now, or hardly any."""
    if contention <= MAX_CONTENTION:
        return False
    return _others_now(int(time.monotonic() / _PERIOD_S)) < max(contention / 2, MAX_CONTENTION)


@lru_cache(maxsize=1)
def _others_now(_period: int) -> float:
    """Share of core time that others take just now, looked at once in a period."""
    before = CoreTime.now()
    time.sleep(_LOOK_S)
    return before.contention(CoreTime.now())


def resolution(num_intervals: int, duration_s: float) -> float:
    """Share of core time by which the contention of so many intervals, of this length together, may be off.

    The kernel counts whole ticks, of every core and of our user and system time: each is off by a part of one at both
    ends of an interval, evenly distributed. Three standard deviations of their sum.
    """
    num_cores = len(_cores())
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return 3 * tick_s * math.sqrt(num_intervals * (num_cores + 2) / 6) / (duration_s * num_cores)


def _cores() -> set[int]:
    """Numbers of the cores that we may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _busy_s(cores: set[int]) -> float | None:
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            ticks += sum(int(field) for index, field in enumerate(fields[:_COUNTED]) if index not in _IDLE)
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """CPU time of this process and of the processes it started, the ended ones included."""
    own = os.times()
    seconds = own.user + own.system + own.children_user + own.children_system
    if not _has_children():
        return seconds
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:  # ended since it was listed; its parent has its time
            continue
        seconds += used.user + used.system + used.children_user + used.children_system
    return seconds


def _has_children() -> bool:
    """Whether this process has live children, as far as can be told without reading the whole process table."""
    lists = list(_TASKS.glob("*/children"))
    try:
        return not lists or any(path.read_text(encoding="ascii").strip() for path in lists)
    except OSError:  # a thread ended since it was listed, and what it started is another's now
        return True
