"""Dynamic batching: a batch starts when it is full or its first request has waited long enough.

Idea: a static batch waits until it is full, which under little load may be never. A limit on the wait bounds what
batching adds to the time to first token, and under much load batches still fill.
Price: up to the wait for each request that comes first; as with static batching, a request that arrives while a batch
runs waits for the slowest of it, and short prompts are padded to the longest.
No gain: with one request at a time, where each only waits; offline, where all requests are there and no one waits.
Reference: the dynamic batcher of NVIDIA Triton Inference Server; Crankshaw et al. 2017, Clipper (adaptive batching).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost


@dataclass(frozen=True)
class DynamicBatching(Optimization):
    """Run what has come within `max_wait_s` as one batch, `max_batch` requests at most."""

    name: ClassVar[str] = "dynamic_batching"
    title: ClassVar[str] = "Dynamic batching"
    slot: ClassVar[Slot] = Slot.SCHEDULER
    exact: ClassVar[bool] = True

    max_batch: int = knob(8, "requests in a batch", low=1, high=1024)
    max_wait_s: float = knob(0.05, "longest that the first request of a batch waits for others, in seconds",
                             low=0.0, high=60.0)  # fmt: skip

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine the scheduler."""
        from labkit.engine.scheduler import DynamicBatch

        return replace(config, scheduler=partial(DynamicBatch, self.max_batch, self.max_wait_s))

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """One step serves the whole batch."""
        return replace(cost, batch=self.max_batch)
