"""Vector precision: the numbers of an index in 16 or 8 bits.

Idea: a scan reads every vector once for a query, so half the bytes are half the time, and integers multiply faster
than floats besides. A vector of length 1 has no outliers to speak of: 8 bits and a scale hold it.
Price: rounding swaps neighbours that are almost equally near. Beside 8 bits, fp16 is held, in which the best of a scan
are scored again: three bytes a number, one of which is read for every query.
No gain: in fp16 on a processor that turns it into fp32 first, and where the index fits in the cache nearest to the
core.
Reference: Jégou, Douze and Schmid 2011 (scans over compressed vectors); Guo et al. 2020, ScaNN.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.similarity import Settings


@dataclass(frozen=True)
class VectorPrecision(Optimization):
    """Hold the vectors of the index in this dtype (default of every Recipe without it: fp32)."""

    name: ClassVar[str] = "vector_precision"
    title: ClassVar[str] = "Vector precision"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False
    systems: ClassVar[tuple[str, ...]] = ("similarity",)
    requires: ClassVar[tuple[str, ...]] = ("truncated_svd",)

    dtype: str = knob("int8", "what each number is held in", choices=("fp32", "fp16", "int8"))

    def settle(self, settings: "Settings") -> "Settings":
        """Set the dtype."""
        return replace(settings, dtype=self.dtype)
