"""Query batching: several queries share one reading of the index.

Idea: a scan is bound by reading the vectors; a product with several queries at once reads them once for all.
Price: a query waits for those that it is answered with.
No gain: when queries come one at a time, or the index is so small that Python takes longer than the scan.
Reference: the same roofline as of any product of a matrix with few vectors (Williams, Waterman and Patterson 2009).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.similarity import Settings


@dataclass(frozen=True)
class QueryBatching(Optimization):
    """Answer up to `size` of the queries that wait together."""

    name: ClassVar[str] = "query_batching"
    title: ClassVar[str] = "Query batching"
    slot: ClassVar[Slot] = Slot.SCHEDULER
    exact: ClassVar[bool] = False  # sums are in another order
    systems: ClassVar[tuple[str, ...]] = ("similarity",)

    size: int = knob(32, "queries answered together", low=1, high=4096)

    def settle(self, settings: "Settings") -> "Settings":
        """Set the number."""
        return replace(settings, batch_size=self.size)
