"""ContinuousBatch: the batch is put together anew for each step.

A request joins as soon as there is a place and leaves with its last token; its prompt is computed in chunks beside the
tokens of those that decode, so that no one waits long for another's prompt. Blocks of the cache are given as sequences
grow. Where they run out, the newest sequence gives its blocks back and waits in front of the queue; what it had said is
then computed again as if it were its prompt, so nothing is lost. Source: Yu et al. 2022, Orca; Kwon et al. 2023, vLLM
(preemption by recomputation); Agrawal et al. 2024, Sarathi-Serve (chunked prefill under a budget of tokens).
"""

from collections import deque
from collections.abc import Iterator, Mapping

from labkit.engine.cache import KVCache
from labkit.engine.scheduler import Plan
from labkit.engine.sequence import Chunk, Sequence


class ContinuousBatch:
    """A Scheduler of up to `max_batch` running sequences, with up to `prefill_budget` prompt tokens in a step."""

    def __init__(self, max_batch: int, prefill_budget: int, cache: KVCache) -> None:
        self.max_batch, self.prefill_budget, self.cache = max_batch, prefill_budget, cache
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of their admission
        self.num_preemptions = 0

    @property
    def counters(self) -> Mapping[str, float]:
        """See Scheduler."""
        return {"preemptions": float(self.num_preemptions)}

    def add(self, sequence: Sequence) -> None:
        """See Scheduler."""
        self.waiting.append(sequence)

    def schedule(self, *, is_more_coming: bool, now_s: float) -> Plan:
        """See Scheduler: those that decode, then chunks of prompts in the order of their admission."""
        preempted = self._make_room()
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        chunks = self._chunks(can_admit=not preempted)
        return Plan(chunks=chunks, decoding=decoding, preempted=preempted)

    def retire(self) -> list[Sequence]:
        """See Scheduler: each leaves with its last token."""
        finished = [sequence for sequence in self.running if sequence.is_finished]
        if finished:
            self.running = [sequence for sequence in self.running if not sequence.is_finished]
        return finished

    def _make_room(self) -> list[Sequence]:
        """Give each decoding sequence a place for its next token, the oldest first; returns those who lost theirs."""
        preempted = []
        for sequence in list(self.running):
            while sequence.is_decoding and not self.cache.extend(sequence, sequence.num_tokens):
                newest = self.running.pop()  # perhaps itself, which then is none that decodes; the oldest always fits
                self.cache.release([newest])
                self.waiting.appendleft(newest)
                preempted.append(newest)
        self.num_preemptions += len(preempted)
        return preempted

    def _chunks(self, *, can_admit: bool) -> list[Chunk]:
        chunks, left = [], self.prefill_budget
        prefilling = self._prefilling(can_admit=can_admit)
        while left and (sequence := next(prefilling, None)) is not None:
            chunks.append(Chunk(sequence, min(left, sequence.num_tokens - sequence.num_cached)))
            left -= chunks[-1].num_tokens
        return chunks

    def _prefilling(self, *, can_admit: bool) -> Iterator[Sequence]:
        """Those who run and do not decode yet, then those who wait: each is let in when it is asked for."""
        yield from [sequence for sequence in self.running if not sequence.is_decoding]
        while can_admit and self.waiting and len(self.running) < self.max_batch and self._admit():
            yield self.running[-1]

    def _admit(self) -> bool:
        """Let the next one in if its prompt has room and everyone who runs has room to grow by a block."""
        sequence = self.waiting[0]
        needed = self.cache.blocks_for(sequence.num_tokens) + len(self.running)
        if not self.cache.has_room(needed) or not self.cache.extend(sequence, sequence.num_tokens):
            return False
        self.running.append(self.waiting.popleft())
        return True
