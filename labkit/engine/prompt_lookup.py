"""PromptLookup: drafts copied from the sequence itself, from behind an earlier place that reads like its end.

Source: Saxena 2023, Prompt Lookup Decoding.
"""

import sys
from collections.abc import Sequence as List

from labkit.engine.executor import Executor
from labkit.engine.sequence import Sequence
from labkit.engine.speculative import Drafts

MAX_NGRAM = 3
"""Tokens of the end that are looked for; where they are not found, fewer are."""


class PromptLookup:
    """A drafter without a model: good where the output repeats the prompt or itself."""

    executors: tuple[Executor, ...] = ()
    max_positions = sys.maxsize

    def __init__(self) -> None:
        self.ngrams: dict[int, Ngrams] = {}  # by the index of the sequence

    def propose(self, sequences: List[Sequence], most: List[int]) -> Drafts:
        """See Drafter."""
        return Drafts([self._continued(sequence, num) for sequence, num in zip(sequences, most, strict=True)])

    def release(self, sequences: List[Sequence]) -> None:
        """See Drafter."""
        for sequence in sequences:
            self.ngrams.pop(sequence.index, None)

    def _continued(self, sequence: Sequence, num_tokens: int) -> list[int]:
        tokens = sequence.tokens
        ngrams = self.ngrams.setdefault(sequence.index, Ngrams())
        ngrams.read(tokens)
        return ngrams.continued(tokens, num_tokens)


class Ngrams:
    """Where every n-gram of one growing text stood last with something behind it."""

    def __init__(self) -> None:
        self.behind: dict[tuple[int, ...], int] = {}  # index of the token behind it
        self.num_read = 1  # nothing stands before the first token

    def read(self, tokens: List[int]) -> None:
        """Take in what the text has grown by."""
        for index in range(self.num_read, len(tokens)):
            for size in range(1, min(MAX_NGRAM, index) + 1):
                self.behind[tuple(tokens[index - size : index])] = index
        self.num_read = max(self.num_read, len(tokens))

    def continued(self, tokens: List[int], num_tokens: int) -> list[int]:
        """What stood behind the longest end that the text has had before; [] where it has had none.

        A copy that reaches the end of the text goes on with its own beginning, as the text then would.
        """
        for size in range(min(MAX_NGRAM, len(tokens)), 0, -1):
            start = self.behind.get(tuple(tokens[-size:]))
            if start is not None:
                copied = list(tokens[start:])
                return (copied * (num_tokens // len(copied) + 1))[:num_tokens]
        return []
