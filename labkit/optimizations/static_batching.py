"""Static batching: requests start together and the next batch waits for the last of them.

Idea: one step reads every weight once, whatever the number of sequences, so a batch of 8 costs little more than one
sequence until arithmetic becomes the bound. Throughput grows almost with the batch.
Price: a request waits for the batch to fill and for its slowest member; short prompts are padded to the longest.
No gain: with one request at a time, or with lengths so unequal that most of the batch is padding or idle.
Reference: Yu et al. 2022, Orca (which names the waste and removes it by scheduling every iteration).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost


@dataclass(frozen=True)
class StaticBatching(Optimization):
    """Run up to `size` requests as one batch, from their first step to the last of the longest."""

    name: ClassVar[str] = "static_batching"
    title: ClassVar[str] = "Static batching"
    slot: ClassVar[Slot] = Slot.SCHEDULER
    exact: ClassVar[bool] = True

    size: int = knob(8, "requests in a batch", low=1, high=1024)

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine the scheduler."""
        from labkit.engine.scheduler import StaticBatch

        return replace(config, scheduler=partial(StaticBatch, self.size))

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """One step serves the whole batch."""
        return replace(cost, batch=self.size)
