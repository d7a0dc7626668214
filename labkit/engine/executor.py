"""Executor: runs one batch of sequences through the model and gives the logits of their next tokens."""

from collections.abc import Sequence as List
from typing import Protocol

import torch
from torch import Tensor

from labkit.engine.cache import KVCache
from labkit.engine.sequence import Sequence
from labkit.model.transformer import Transformer


class Executor(Protocol):
    """Where and how a batch is computed."""

    def execute(self, sequences: List[Sequence]) -> Tensor:
        """Logits [B, V] of each sequence's next token. All are new, or all are decoding."""


class LocalExecutor:
    """The whole model on one device, in this process."""

    def __init__(self, model: Transformer, cache: KVCache | None) -> None:
        self.model, self.cache = model, cache
        self.device = model.embed_tokens.weight.device

    def execute(self, sequences: List[Sequence]) -> Tensor:
        """See Executor. Prompts of unequal length are padded on the right, where causal attention never looks."""
        if self.cache is None:
            return self._forward([sequence.tokens for sequence in sequences], None)
        if sequences[0].num_cached == 0:
            self.cache.admit(sequences)
            new = [sequence.tokens for sequence in sequences]
        else:
            new = [sequence.outputs[-1:] for sequence in sequences]
        view = self.cache.view(sequences, max(map(len, new)))
        logits = self._forward(new, view)
        for sequence in sequences:
            sequence.num_cached = sequence.num_tokens
        return logits

    def _forward(self, tokens: list[list[int]], view: object) -> Tensor:
        lengths = [len(row) for row in tokens]
        longest = max(lengths)
        padded = [row + [0] * (longest - len(row)) for row in tokens]
        last = torch.tensor(lengths, device=self.device) - 1
        return self.model(torch.tensor(padded, device=self.device), store=view, last=last)  # type: ignore[no-any-return]
