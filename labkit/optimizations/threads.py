"""Threads: how many cores one operation is spread over.

Idea: a matrix product splits into rows that cores work on at once. Memory bandwidth is shared, so decoding stops to
gain when the cores together read as fast as memory delivers. Beside the threads inside an operation torch keeps a pool
for whole operations that run side by side (`interop`).
Price: each operation waits for its slowest thread; more threads than cores make every operation slower.
No gain: for matrices so small that waking the threads costs more than the work. `interop` changes nothing as long as
each operation needs the one before it, as in a decoder: the knob is there to see that.
Reference: Amdahl 1967; torch's documentation of CPU threading.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

from labkit.core.errors import Unavailable, UsageError
from labkit.optimizations.base import Optimization, Slot, knob


@dataclass(frozen=True)
class Threads(Optimization):
    """Use this many threads inside each operation (default of every Recipe without it: all cores)."""

    name: ClassVar[str] = "threads"
    title: ClassVar[str] = "Threads"
    slot: ClassVar[Slot] = Slot.RUNTIME
    exact: ClassVar[bool] = True
    systems: ClassVar[tuple[str, ...]] = ("engine", "similarity", "classifier")

    num: int = knob(1, "threads inside an operation", low=1, high=1024)
    interop: int = knob(0, "operations that may run side by side; 0: as torch chooses", low=0, high=1024)

    @property
    def provable(self) -> "Threads":
        """Without `interop`, which a process sets once."""
        return replace(self, interop=0)

    @contextmanager
    def process(self) -> Iterator[Mapping[str, int]]:
        """Set the numbers of threads and read them back; that of `interop` stays for the life of the process.

        Raises:
            UsageError: more threads than this process may use cores. Unavailable: `interop` was fixed before.
        """
        from labkit.core.machine import usable_cores

        if max(self.num, self.interop) > usable_cores():
            raise UsageError(
                f"{self.step.text} was asked for; this process may use {usable_cores()} cores; allowed: 1 to that many"
            )
        if "tensorflow" in sys.modules and "torch" not in sys.modules:  # what measures Keras holds no torch
            from labkit.text.rnn_keras import set_threads

            yield set_threads(self.num)
            return

        import torch

        facts = _set_interop(self.interop) if self.interop else {}
        before = torch.get_num_threads()
        torch.set_num_threads(self.num)
        try:
            yield {"threads": torch.get_num_threads(), **facts}
        finally:
            torch.set_num_threads(before)


def _set_interop(num: int) -> dict[str, int]:
    """Have torch run up to `num` operations side by side; what it says then."""
    import torch

    if torch.get_num_interop_threads() != num:
        try:
            torch.set_num_interop_threads(num)
        except RuntimeError:  # it was set before, or such threads have started
            raise Unavailable(
                f"threads(interop={num}) was asked for; this process has {torch.get_num_interop_threads()}, which torch"
                " lets be set once; measure the recipe in a fresh process, as `labkit bench` does"
            ) from None
    return {"interop_threads": torch.get_num_interop_threads()}
