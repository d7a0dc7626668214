"""Threads: how many cores one operation is spread over.

Idea: a matrix product splits into rows that cores work on at once. Memory bandwidth is shared, so decoding stops to
gain when the cores together read as fast as memory delivers.
Price: each operation waits for its slowest thread; more threads than cores make every operation slower.
No gain: for matrices so small that waking the threads costs more than the work.
Reference: Amdahl 1967; torch's documentation of CPU threading.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from labkit.core.errors import UsageError
from labkit.optimizations.base import Optimization, Slot, knob


@dataclass(frozen=True)
class Threads(Optimization):
    """Use this many threads inside each operation (default of every Recipe without it: all cores)."""

    name: ClassVar[str] = "threads"
    title: ClassVar[str] = "Threads"
    slot: ClassVar[Slot] = Slot.RUNTIME
    exact: ClassVar[bool] = True
    systems: ClassVar[tuple[str, ...]] = ("engine",)

    num: int = knob(1, "threads inside an operation", low=1, high=1024)

    @contextmanager
    def process(self) -> Iterator[Mapping[str, int]]:
        """Set the number of threads and read it back.

        Raises:
            UsageError: more threads than this process may use cores.
        """
        import torch

        from labkit.core.machine import usable_cores

        if self.num > usable_cores():
            raise UsageError(
                f"threads(num={self.num}) was asked for; "
                f"this process may use {usable_cores()} cores; allowed: 1 to that many"
            )
        before = torch.get_num_threads()
        torch.set_num_threads(self.num)
        try:
            yield {"threads": torch.get_num_threads()}
        finally:
            torch.set_num_threads(before)
