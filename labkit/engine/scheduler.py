"""Scheduler: what the next step computes."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from labkit.engine.cache import KVCache
from labkit.engine.sequence import Chunk, Sequence


@dataclass(frozen=True)
class Plan:
    """What a step computes: whole prompts of `new`, as one batch; `chunks` of prompts; a token or more of `decoding`.

    `preempted` lost their blocks and wait again. `at_s`: there is nothing to do before, and then there will be; None:
    not unless a request arrives.
    """

    new: list[Sequence] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    decoding: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    at_s: float | None = None

    @property
    def sequences(self) -> list[Sequence]:
        """All that the step moves."""
        return [*self.new, *(chunk.sequence for chunk in self.chunks), *self.decoding]

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until there is something to do if no request arrives; None: for ever."""
        return None if self.at_s is None else max(0.0, self.at_s - now_s)


class Scheduler(Protocol):
    """Holds waiting and running sequences. The Engine calls `add`, then `schedule` before each
    step and `retire` after it."""

    @property
    def counters(self) -> Mapping[str, float]:
        """What it counted since it was made, for the Trace; always the same names."""

    def add(self, sequence: Sequence) -> None:
        """Put a request at the end of the queue."""

    def schedule(self, *, is_more_coming: bool, now_s: float) -> Plan:
        """What the next step computes; nothing when there is nothing to do yet. `is_more_coming`: more will arrive."""

    def retire(self) -> list[Sequence]:
        """Sequences that need nothing more from the cache; they leave the scheduler."""


class StaticBatch:
    """Up to `size` requests start together; the next batch waits until the last of them is done (static batching).

    Of a cache with a budget, a batch is cut to what fits when each of it takes as much as its longest.
    """

    counters: Mapping[str, float] = {}

    def __init__(self, size: int, cache: KVCache | None) -> None:
        self.size, self.cache = size, cache
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """See Scheduler."""
        self.waiting.append(sequence)

    def schedule(self, *, is_more_coming: bool, now_s: float) -> Plan:
        """See Scheduler: a batch starts when it is full or no more requests will come."""
        if self.running:
            return Plan(decoding=[sequence for sequence in self.running if not sequence.is_finished])
        if not self.waiting:
            return Plan()
        starts_s = self._starts_s()
        if is_more_coming and len(self.waiting) < self.size and (starts_s is None or now_s < starts_s):
            return Plan(at_s=starts_s)
        self.running = self._batch()
        return Plan(new=list(self.running))

    def retire(self) -> list[Sequence]:
        """See Scheduler: the batch leaves as a whole."""
        if not all(sequence.is_finished for sequence in self.running):
            return []
        finished, self.running = self.running, []
        return finished

    def _starts_s(self) -> float | None:
        """When those that wait start even if they are few."""
        return None

    def _batch(self) -> list[Sequence]:
        batch: list[Sequence] = []
        while self.waiting and len(batch) < self.size and self._fits([*batch, self.waiting[0]]):
            batch.append(self.waiting.popleft())
        return batch

    def _fits(self, batch: list[Sequence]) -> bool:
        if self.cache is None:
            return True
        longest = max(sequence.max_tokens for sequence in batch)
        return self.cache.has_room(self.cache.blocks_for(longest) * len(batch))


class OneAtATime(StaticBatch):
    """The naive scheduler: one request from its first token to its last, then the next."""

    def __init__(self, cache: KVCache | None) -> None:
        super().__init__(1, cache)


class DynamicBatch(StaticBatch):
    """A static batch that starts `max_wait_s` after its first request was sent, full or not (dynamic batching)."""

    def __init__(self, max_batch: int, max_wait_s: float, cache: KVCache | None) -> None:
        super().__init__(max_batch, cache)
        self.max_wait_s = max_wait_s

    def _starts_s(self) -> float:
        return self.waiting[0].sent_s + self.max_wait_s
