"""Sequence: one request on its way through the Engine."""

from dataclasses import dataclass, field
from typing import NamedTuple

from labkit.core.trace import RequestTrace


@dataclass
class Sequence:
    """Token ids of a request, prompt first, and what happened to it.

    `num_cached` tokens have their keys and values in the cache, in `blocks`, one after the other.
    """

    index: int
    prompt: list[int]
    max_new_tokens: int
    arrival_s: float
    sent_s: float = 0.0
    scheduled_s: float | None = None
    num_cached: int = 0
    blocks: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    output_s: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """Prompt and output ids."""
        return self.prompt + self.outputs

    @property
    def uncached(self) -> list[int]:
        """Tokens whose keys and values the cache does not hold: those from index `num_cached` on."""
        num_cached_outputs = self.num_cached - len(self.prompt)
        return self.outputs[num_cached_outputs:] if num_cached_outputs >= 0 else self.tokens[self.num_cached :]

    @property
    def num_tokens(self) -> int:
        """Length of prompt and output so far."""
        return len(self.prompt) + len(self.outputs)

    @property
    def max_tokens(self) -> int:
        """Length when it will be done."""
        return len(self.prompt) + self.max_new_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether its last output is all that the cache lacks of it."""
        return bool(self.outputs) and self.num_cached == self.num_tokens - 1

    @property
    def is_finished(self) -> bool:
        """Whether all its outputs are there; end-of-sequence is ignored so that work is equal."""
        return len(self.outputs) >= self.max_new_tokens

    def append(self, token: int, at_s: float) -> None:
        """Add an output that was there at `at_s`."""
        self.outputs.append(token)
        self.output_s.append(at_s)

    def trace(self) -> RequestTrace:
        """Its event log, once it is finished."""
        scheduled_s = self.sent_s if self.scheduled_s is None else self.scheduled_s
        return RequestTrace(
            self.arrival_s, self.sent_s, scheduled_s, tuple(self.output_s), tuple(self.outputs), len(self.prompt)
        )


class Chunk(NamedTuple):
    """The next tokens of a sequence that a step computes, of those that the cache lacks; at least one."""

    sequence: Sequence
    num_tokens: int

    @property
    def is_last(self) -> bool:
        """Whether the next token of the sequence follows from it."""
        return self.sequence.num_cached + self.num_tokens == self.sequence.num_tokens
