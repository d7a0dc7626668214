"""Decoding: how sequences that are past their prompt come by their next tokens."""

from collections.abc import Mapping
from collections.abc import Sequence as List
from typing import Protocol

from labkit.engine.cost import DecoderCost
from labkit.engine.executor import Executor
from labkit.engine.sampler import Sampler
from labkit.engine.sequence import Chunk, Sequence


class Decoding(Protocol):
    """Advances a group of decoding sequences by one step; the Engine appends what it returns."""

    @property
    def lookahead(self) -> int:
        """Most tokens that a step may store in the cache beyond a sequence's last one."""

    @property
    def joins_chunks(self) -> bool:
        """Whether sequences may decode in the step that computes chunks of others, by `OneToken.advance_mixed`."""

    @property
    def executors(self) -> tuple[Executor, ...]:
        """What runs models besides the Engine's own."""

    @property
    def counters(self) -> Mapping[str, float]:
        """What it counted since it was made, for the Trace; always the same names."""

    def advance(self, sequences: List[Sequence]) -> list[list[int]]:
        """The next tokens of each sequence: at least one, never more than it still needs."""

    def release(self, sequences: List[Sequence]) -> None:
        """Forget these sequences; they need nothing more."""

    def refine_cost(self, cost: DecoderCost) -> DecoderCost:
        """The cost with what was met so far in place of what was assumed."""


class OneToken:
    """One forward pass, one token a sequence."""

    lookahead = 0
    joins_chunks = True
    executors: tuple[Executor, ...] = ()
    counters: Mapping[str, float] = {}

    def __init__(self, executor: Executor, sampler: Sampler) -> None:
        self.executor, self.sampler = executor, sampler

    def advance(self, sequences: List[Sequence]) -> list[list[int]]:
        """See Decoding; new sequences may advance so too."""
        tokens = self.sampler(self.executor.execute(sequences)).tolist()  # waits for the device
        return [[token] for token in tokens]

    def advance_mixed(self, chunks: List[Chunk], decoding: List[Sequence]) -> list[list[int]]:
        """The next token of each sequence whose last chunk this is, then of each of `decoding`."""
        logits = self.executor.execute_mixed(chunks, decoding)
        return [[token] for token in self.sampler(logits).tolist()] if len(logits) else []

    def release(self, sequences: List[Sequence]) -> None:
        """See Decoding: there is nothing to forget."""

    def refine_cost(self, cost: DecoderCost) -> DecoderCost:
        """See Decoding: nothing was assumed."""
        return cost
