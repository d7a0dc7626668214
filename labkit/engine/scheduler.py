"""Scheduler: which sequences the next step advances."""

from collections import deque
from typing import Protocol

from labkit.engine.sequence import Sequence


class Scheduler(Protocol):
    """Holds waiting and running sequences. The Engine calls `add`, then `schedule` before each
    step and `retire` after it."""

    def add(self, sequence: Sequence) -> None:
        """Put a request at the end of the queue."""

    def schedule(self, *, is_more_coming: bool) -> list[Sequence]:
        """Sequences of the next step; empty when there is nothing to do yet. `is_more_coming`: more will arrive."""

    def retire(self) -> list[Sequence]:
        """Sequences that need nothing more from the cache; they leave the scheduler."""


class StaticBatch:
    """Up to `size` requests start together; the next batch waits until the last of them is done (static batching)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """See Scheduler."""
        self.waiting.append(sequence)

    def schedule(self, *, is_more_coming: bool) -> list[Sequence]:
        """See Scheduler: a batch starts when it is full or no more requests will come."""
        if not self.running and (len(self.waiting) >= self.size or not is_more_coming):
            self.running = [self.waiting.popleft() for _ in range(min(self.size, len(self.waiting)))]
        return [sequence for sequence in self.running if not sequence.is_finished]

    def retire(self) -> list[Sequence]:
        """See Scheduler: the batch leaves as a whole."""
        if not all(sequence.is_finished for sequence in self.running):
            return []
        finished, self.running = self.running, []
        return finished


class OneAtATime(StaticBatch):
    """The naive scheduler: one request from its first token to its last, then the next."""

    def __init__(self) -> None:
        super().__init__(1)
