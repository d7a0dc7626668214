"""Executor: runs one batch of sequences through the model and gives the logits of their next tokens."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as List
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from labkit.engine.cache import CacheView, KVCache
from labkit.engine.compiled import CompiledBlock
from labkit.engine.cost import (
    COMPILED_LAUNCHES_PER_LAYER,
    LAUNCHES_PER_LAYER,
    NATIVE_LAUNCHES_PER_LAYER,
    REPLAYED_LAUNCHES_PER_LAYER,
)
from labkit.engine.graphed import CudaGraphs, GraphedStep, batch_bucket, can_graph, length_bucket
from labkit.engine.mixed import MixedView
from labkit.engine.recorded import RecordedStep, can_record
from labkit.engine.sequence import Chunk, Sequence
from labkit.model.transformer import Transformer


class StepShape(NamedTuple):
    """A batch of sequences that compute `new` tokens each and see `length`, the new ones and padding included."""

    new: int
    batch: int
    length: int

    @property
    def rows(self) -> int:
        """Rows of activations that the blocks' layers meet."""
        return self.batch * self.new


class Executor(Protocol):
    """Where and how a batch is computed."""

    @property
    def model(self) -> Transformer:
        """What it computes with."""

    @property
    def cache(self) -> KVCache | None:
        """Where that stores keys and values."""

    @property
    def shapes(self) -> Mapping[str, Counter[StepShape]]:
        """The steps computed so far by phase of the Cost, of new sequences and decoding ones, each with its count."""

    @property
    def is_replayed(self) -> bool:
        """Whether steps that decode one token a sequence were recorded, and are started by one call."""

    @property
    def launches_per_layer(self) -> int:
        """Operations that a layer dispatches in a step that decodes one token a sequence."""

    def execute(self, sequences: List[Sequence]) -> Tensor:
        """Logits [B, V] of each sequence's next token. All are new, or all are decoding."""

    def execute_mixed(self, chunks: List[Chunk], decoding: List[Sequence]) -> Tensor:
        """Logits [B, V] of the next tokens: of the chunks that are the last of their sequences, then of `decoding`.

        All of them have their blocks. Nothing is padded, and there may be no logits at all.
        """

    def verify(self, sequences: List[Sequence], drafts: List[list[int]]) -> Tensor:
        """Logits [B, 1 + K, V] after each decoding sequence's last token and after each token of its draft.

        K is the length of the longest draft; rows beyond a shorter one mean nothing. All of it is in the cache
        afterwards: who rejects a token sets `num_cached` back.
        """

    def compute(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] of whole texts [B, T], past any cache."""

    @property
    def counters(self) -> Mapping[str, float]:
        """What it counted since it was made, for the Trace; always the same names."""

    def complete(self, facts: Mapping[str, Any], cache_folder: Path | None) -> Mapping[str, Any]:
        """What a Run records of the build, from the Engine's facts about its own process."""

    def relocate(self) -> None:
        """Move weights that other processes hold to other memory."""

    def close(self) -> None:
        """Give back what other processes hold."""


class LocalExecutor:
    """The whole model on one device, in this process.

    `phases` are what the Cost calls its steps: those of new sequences, those of decoding ones.
    """

    def __init__(
        self, model: Transformer, cache: KVCache | None, *, phases: tuple[str, str] = ("prefill", "decode")
    ) -> None:
        self.model, self.cache = model, cache
        self.device = model.embed_tokens.weight.device
        self.phases = phases
        self.shapes: dict[str, Counter[StepShape]] = {phase: Counter() for phase in phases}
        self.num_prompt_rows = self.num_padding_rows = 0
        self._recorded: dict[int, RecordedStep] = {}  # by the size of the batch
        self._graphed: dict[tuple[int, int], GraphedStep] = {}  # by the size of the batch and the length
        self._capture: CudaGraphs | None = None

    @property
    def is_replayed(self) -> bool:
        """See Executor."""
        return bool(self._recorded or self._graphed)

    @property
    def launches_per_layer(self) -> int:
        """See Executor."""
        if self.is_replayed:
            return REPLAYED_LAUNCHES_PER_LAYER
        if isinstance(self.model.layers[0], CompiledBlock):
            return COMPILED_LAUNCHES_PER_LAYER
        is_native = self.cache is not None and self.cache.has_native_attention
        return NATIVE_LAUNCHES_PER_LAYER if is_native else LAUNCHES_PER_LAYER

    @property
    def counters(self) -> Mapping[str, float]:
        """See Executor."""
        return {"prompt_rows": float(self.num_prompt_rows), "padding_rows": float(self.num_padding_rows)}

    def execute(self, sequences: List[Sequence]) -> Tensor:
        """See Executor. Prompts of unequal length are padded on the right, where causal attention never looks."""
        if self.cache is None:
            return self._forward(sequences, [sequence.tokens for sequence in sequences], None)
        if sequences[0].blocks:
            return self._append(self.cache, sequences)
        self.cache.admit(sequences)
        logits = self.prefill(sequences)
        self.cache.keep(sequences)
        return logits

    def prefill(self, sequences: List[Sequence]) -> Tensor:
        """Logits [B, V] of sequences that have blocks, with beginnings in some: a pass for each length of those.

        Rows of a pass start together, so it ends where its longest prompt does: rows that start apart would be padded
        beyond that, past their blocks or the last position, and would compute the padding.
        """
        assert self.cache is not None
        starts = [sequence.num_cached for sequence in sequences]
        order = sorted(range(len(sequences)), key=starts.__getitem__)
        logits = []
        for _, rows in groupby(order, key=starts.__getitem__):
            group = [sequences[row] for row in rows]
            logits.append(self._append(self.cache, group))
        return torch.cat(logits)[torch.tensor(order, device=self.device).argsort()]

    def _append(self, cache: KVCache, sequences: List[Sequence]) -> Tensor:
        """Compute what the cache lacks of sequences; where that is more than a token each, all start at one index."""
        new = [sequence.uncached for sequence in sequences]
        logits = self._forward(sequences, new, cache.view(sequences, max(map(len, new))))
        for sequence in sequences:
            sequence.num_cached = sequence.num_tokens
        return logits

    def execute_mixed(self, chunks: List[Chunk], decoding: List[Sequence]) -> Tensor:
        """See Executor."""
        assert self.cache is not None  # a sequence whose tokens come in chunks needs a place for the first of them
        views = [self.cache.view([sequence], num_tokens) for sequence, num_tokens in chunks]
        tokens = [token for sequence, num_tokens in chunks for token in sequence.uncached[:num_tokens]]
        ends, is_last = list(accumulate(num_tokens for _, num_tokens in chunks)), [chunk.is_last for chunk in chunks]
        for view in views:
            self.shapes[self.phases[0]][StepShape(view.num_new, 1, view.length)] += 1
        self.num_prompt_rows += len(tokens)
        if decoding:
            views.append(self.cache.view(decoding, 1))
            self.shapes[self.phases[1]][StepShape(1, len(decoding), views[-1].length)] += 1
            tokens += [sequence.outputs[-1] for sequence in decoding]
        rows = [end - 1 for end, wanted in zip(ends, is_last, strict=True) if wanted]
        rows += range(len(tokens) - len(decoding), len(tokens))
        logits = self.model(
            torch.tensor([tokens], device=self.device),
            store=MixedView(views, self.model),
            last=torch.tensor(rows, dtype=torch.int64, device=self.device),
        )
        for sequence, num_tokens in (*chunks, *((sequence, 1) for sequence in decoding)):
            sequence.num_cached += num_tokens
        self.cache.keep([chunk.sequence for chunk, wanted in zip(chunks, is_last, strict=True) if wanted])
        return logits  # type: ignore[no-any-return]

    def verify(self, sequences: List[Sequence], drafts: List[list[int]]) -> Tensor:
        """See Executor. Drafts of unequal length are padded on the right."""
        assert self.cache is not None  # without one there is nothing that the drafted tokens could stand behind
        new = [sequence.uncached + draft for sequence, draft in zip(sequences, drafts, strict=True)]
        view = self.cache.view(sequences, max(map(len, new)))
        logits = self._forward(sequences, new, view, is_last_only=False)
        for sequence, draft in zip(sequences, drafts, strict=True):
            sequence.num_cached = sequence.num_tokens + len(draft)
        return logits

    def compute(self, tokens: Tensor) -> Tensor:
        """See Executor."""
        return self.model(tokens)  # type: ignore[no-any-return]

    def complete(self, facts: Mapping[str, Any], cache_folder: Path | None) -> Mapping[str, Any]:
        """See Executor: there is nothing to add."""
        return facts

    def relocate(self) -> None:
        """See Executor: there are no others."""

    def close(self) -> None:
        """See Executor: there are no others."""

    def _forward(
        self, sequences: List[Sequence], tokens: list[list[int]], view: CacheView | None, *, is_last_only: bool = True
    ) -> Tensor:
        lengths = [len(row) for row in tokens]
        longest = max(lengths)
        is_decoding = bool(sequences[0].outputs)
        if not is_decoding:
            self.num_prompt_rows += longest * len(tokens)
            self.num_padding_rows += longest * len(tokens) - sum(lengths)
        phase = self.shapes[self.phases[is_decoding]]
        phase[StepShape(longest, len(tokens), longest if view is None else view.length)] += 1
        if view is not None and view.num_new == 1 and (replayed := self._replayed_step(view)):
            logits = replayed([row[0] for row in tokens], view)
            return logits if is_last_only else logits[:, None]
        padded = [row + [0] * (longest - len(row)) for row in tokens]
        last = torch.tensor(lengths, device=self.device) - 1 if is_last_only else None
        return self.model(torch.tensor(padded, device=self.device), store=view, last=last)  # type: ignore[no-any-return]

    def _replayed_step(self, view: CacheView) -> RecordedStep | GraphedStep | None:
        """A step of one token a sequence as one call; None where it cannot be."""
        if not view.needs_mask:
            return self._recorded_step(view.batch)
        fits = can_graph(self.model, view.cache, batch=view.batch, length=view.length)
        return self._graphed_step(view) if fits else None

    def _graphed_step(self, view: CacheView) -> GraphedStep:
        if self._graphed and not next(iter(self._graphed.values())).is_current:  # nor are the others, made since
            self._graphed.clear()
            self._capture = None  # what graphs shared is gone with the last of them
        key = batch_bucket(view.batch), length_bucket(view.length)
        if key not in self._graphed:
            self._capture = self._capture or CudaGraphs()
            self._graphed[key] = GraphedStep(self.model, view.cache, *key, capture=self._capture)
        return self._graphed[key]

    def _recorded_step(self, batch: int) -> RecordedStep | None:
        """A step of so many sequences as one call; None where it cannot be, or has not chosen its kernels yet."""
        step = self._recorded.get(batch)
        if step is None or not step.is_current:
            if self.cache is None or not can_record(self.model, self.cache, batch):
                return None
            step = self._recorded[batch] = RecordedStep(self.model, self.cache, batch)
        return step
