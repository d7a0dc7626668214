"""KVCache: keys and values of earlier tokens, so that a step computes only the new ones.

Storage is one tensor a layer for keys and one for values, [K, blocks, tokens of a block, D], and where they are int8
one for the scales of each, [K, blocks, tokens of a block]: a scale for each token and head. A sequence owns the blocks
of its table, in order, wherever they lie (Kwon et al. 2023, PagedAttention). Our kernel follows the tables; for torch,
a batch whose blocks lie in one row, as those of sequences admitted together to an empty cache do, is read as one slice
at its live length, and any other is gathered.
"""

import math
from collections.abc import Sequence as List
from functools import cached_property
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.engine.sequence import Sequence
from labkit.model.config import ModelConfig
from labkit.model.native import attention
from labkit.model.native.build import has_kernels
from labkit.model.transformer import attend, rotated

if TYPE_CHECKING:
    from labkit.engine.prefix import PrefixCache

_SCALE_DTYPE = torch.float32

Block = tuple[Tensor, ...]
"""What a cache stores for a run of tokens over all layers: keys, values, each [layers, K, tokens, D], any scales."""


class KVCache:
    """Room for the keys and values of running sequences.

    Args:
        config: sizes of the model.
        dtype: of the stored keys and values, torch.int8 to round them; attention runs in `compute_dtype`.
        block_size: tokens in a block.
        budget_bytes: memory that running sequences may take; None: as much as they need. Schedulers keep to it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        compute_dtype: torch.dtype,
        device: str,
        block_size: int,
        budget_bytes: int | None = None,
    ) -> None:
        self.config, self.dtype, self.compute_dtype, self.device = config, dtype, compute_dtype, device
        self.block_size, self.budget_bytes = block_size, budget_bytes
        self.lookahead = 0  # tokens that a step may store beyond a sequence's last one; set by the Engine
        self.prefixes: PrefixCache | None = None  # what earlier prompts left for those that begin alike
        self.layers: list[tuple[Tensor, ...]] = [()] * config.num_layers
        self.num_blocks = 0
        self._rows: dict[tuple[int, int, int], list[tuple[Tensor, ...]]] = {}  # what `rows` gave last
        self.free_blocks: list[int] = []  # a heap: the lowest come first, so that sequences lie in a row where they can
        self.is_native = has_kernels(device=device, dtype=compute_dtype)
        self.has_native_attention = (
            self.is_native
            and dtype in (compute_dtype, torch.int8)
            and attention.can_attend(
                head_dim=config.head_dim, num_heads=config.num_heads, num_kv_heads=config.num_kv_heads
            )
        )

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(part.nbytes for parts in self.layers for part in parts)

    @property
    def block_bytes(self) -> int:
        """Memory of one block over all layers, in bytes."""
        vectors = 2 * self.config.num_layers * self.config.num_kv_heads * self.block_size
        scale_bytes = _SCALE_DTYPE.itemsize if self.is_rounded else 0
        return vectors * (self.config.head_dim * self.dtype.itemsize + scale_bytes)

    @property
    def is_rounded(self) -> bool:
        """Whether keys and values are stored as integers with scales."""
        return self.dtype is torch.int8

    @property
    def num_used_blocks(self) -> int:
        """Blocks that sequences own."""
        return self.num_blocks - len(self.free_blocks)

    @property
    def max_blocks(self) -> float:
        """Blocks that the budget holds."""
        return math.inf if self.budget_bytes is None else self.budget_bytes // self.block_bytes

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens of a sequence fill, with what a step may store beyond them."""
        return -(-(num_tokens + self.lookahead) // self.block_size)

    def has_room(self, num_blocks: int) -> bool:
        """Whether the budget has so many blocks left."""
        return self.num_used_blocks + num_blocks <= self.max_blocks

    def admit(self, sequences: List[Sequence]) -> None:
        """Give each sequence blocks to its last token: as many as the longest needs, so that they lie evenly.

        What is known of its beginning is put there. The budget is for the caller to ask about.
        """
        num_blocks = self.blocks_for(max(sequence.max_tokens for sequence in sequences))
        self._make_blocks(num_blocks * len(sequences))
        for sequence in sequences:
            self._give(sequence, num_blocks)

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a sequence, new or not, blocks for so many tokens; False, and none, where the budget has too few."""
        missing = self.blocks_for(num_tokens) - len(sequence.blocks)
        if missing <= 0:
            return True
        if not self.has_room(missing):
            return False
        if missing > len(self.free_blocks):  # more than is missing now, so that not every step copies what is stored
            self._make_blocks(int(min(max(missing, self.num_blocks // 4), self.max_blocks - self.num_used_blocks)))
        self._give(sequence, missing)
        return True

    def keep(self, sequences: List[Sequence]) -> None:
        """Let later prompts begin with the prompts of these sequences, which are stored now."""
        if self.prefixes is not None:
            for sequence in sequences:
                self.prefixes.keep(sequence)

    def release(self, sequences: List[Sequence]) -> None:
        """Take the blocks back, and give memory beyond the budget back once nothing is stored."""
        for sequence in sequences:
            for block in sequence.blocks:
                heappush(self.free_blocks, block)
            sequence.blocks, sequence.num_cached = [], 0
        if self.num_blocks > self.max_blocks and not self.num_used_blocks:
            self.layers = [()] * self.config.num_layers
            self.num_blocks, self.free_blocks, self._rows = 0, [], {}

    def view(self, sequences: List[Sequence], num_new: int) -> "CacheView":
        """The cache as the transformer sees it while these sequences append `num_new` tokens each."""
        return CacheView(self, sequences, num_new)

    @property
    def block_layout(self) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Shape and dtype of each part of a block."""
        return self._layout(self.config.num_layers, self.config.num_kv_heads, self.block_size)

    def rows(self, row: slice, batch: int) -> list[tuple[Tensor, ...]]:
        """Views [B, K, tokens, …] of each layer's parts, for so many sequences that lie evenly in a row of blocks."""
        key = row.start, row.stop, batch
        if key not in self._rows:  # made for a batch and not for each of its steps: many small operations
            self._rows = {key: [tuple(_evenly(stored[:, row], batch) for stored in parts) for parts in self.layers]}
        return self._rows[key]

    def read(self, block: int) -> Block:
        """A copy of what a block holds, bit for bit."""
        parts = zip(*self.layers, strict=True)
        return tuple(torch.stack([stored[:, block] for stored in part]) for part in parts)

    def write(self, table: List[int], blocks: List[Block]) -> None:
        """Put copies of blocks, maybe of a cache on another device, where a table says; at least one."""
        row = _as_row(table)
        for index, part in enumerate(zip(*self.layers, strict=True)):
            by_layer = zip(*(block[index].to(self.device).unbind() for block in blocks), strict=True)
            for stored, copies in zip(part, by_layer, strict=True):  # one operation a layer, not one a block
                if row is None:
                    stored[:, table] = torch.stack(copies, dim=1)
                else:
                    torch.cat(copies, dim=1, out=stored[:, row].flatten(1, 2))

    def _give(self, sequence: Sequence, num_blocks: int) -> None:
        """Give a sequence free blocks; a new one, what is known of its beginning, too."""
        is_new = not sequence.blocks
        sequence.blocks = sequence.blocks + [heappop(self.free_blocks) for _ in range(num_blocks)]
        if is_new:
            sequence.num_cached = self.prefixes.restore(sequence) if self.prefixes is not None else 0

    def _make_blocks(self, num_free: int) -> None:
        """Grow until so many blocks are free, keeping what is stored."""
        num_blocks = self.num_blocks + max(0, num_free - len(self.free_blocks))
        if num_blocks == self.num_blocks:
            return
        for index, old in enumerate(self.layers):
            layout = self._layout(self.config.num_kv_heads, num_blocks, self.block_size)
            new = tuple(torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in layout)
            for old_part, new_part in zip(old, new, strict=False):  # there is nothing old at first
                new_part[:, : self.num_blocks] = old_part
            self.layers[index] = new
        self._rows = {}
        for block in range(self.num_blocks, num_blocks):
            heappush(self.free_blocks, block)
        self.num_blocks = num_blocks

    def _layout(self, *vectors: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Shape and dtype of keys and values for that many vectors, then of their scales where they are rounded."""
        parts = (((*vectors, self.config.head_dim), self.dtype),) * 2
        return parts + ((vectors, _SCALE_DTYPE),) * 2 if self.is_rounded else parts


class CacheView:
    """A batch's window on a KVCache during one step; a `KVStore` of the transformer."""

    def __init__(self, cache: KVCache, sequences: List[Sequence], num_new: int) -> None:
        self.cache = cache
        self.starts = [sequence.num_cached for sequence in sequences]
        self.batch, self.num_new = len(sequences), num_new
        self._tables = [sequence.blocks for sequence in sequences]
        self.needs_mask = num_new > 1 or not cache.has_native_attention
        self.is_ragged = len(set(self.starts)) > 1
        self.length = max(self.starts) + num_new

    @cached_property
    def positions(self) -> Tensor:
        """Position of each new token, [B, T]; [1, T] where all sequences are alike."""
        new = torch.arange(self.num_new, device=self.cache.device)
        if not self.is_ragged:
            return (self.starts[0] + new)[None]
        return self.lengths[:, None] + new

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens that are stored of each sequence, [B] int64."""
        return torch.tensor(self.starts, device=self.cache.device)

    @property
    def block_rows(self) -> list[list[int]]:
        """The blocks of each sequence, as many as the longest has; shorter rows end in any."""
        num = -(-self.length // self.cache.block_size)
        return [table[:num] + table[:1] * (num - len(table)) for table in self._tables]

    @cached_property
    def tables(self) -> Tensor:
        """`block_rows` as [B, columns] int64."""
        return torch.tensor(self.block_rows, device=self.cache.device)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, K, T, D] of the new tokens; returns keys and values of all L tokens, [B, K, L, D]."""
        if not self.cache.is_rounded:
            return self._append(layer, 0, keys), self._append(layer, 1, values)
        (keys, key_scales), (values, value_scales) = round_vectors(keys), round_vectors(values)
        new = (keys, values, key_scales, value_scales)
        keys, values, key_scales, value_scales = (self._append(layer, part, by) for part, by in enumerate(new))
        return keys * key_scales[..., None], values * value_scales[..., None]

    def attend(
        self,
        layer: int,
        qkv: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        *,
        window: int | None,
    ) -> Tensor:
        """See KVStore; our kernel does all of it for one new token of each sequence, each at its own length."""
        if not self.needs_mask:
            assert rotation is not None  # the kernel rotates
            return attention.attend(qkv, rotation, self.cache.layers[layer], self.tables, self.lengths, window=window)
        num_kv_heads, is_native = self.cache.config.num_kv_heads, self.cache.is_native
        q, k, v = rotated(qkv, rotation, num_kv_heads=num_kv_heads, is_native=is_native)
        return attend(q, *self.append(layer, k, v), mask)

    @cached_property
    def _row(self) -> slice | None:
        """Where the batch's blocks lie, if in one row and as many of each sequence."""
        is_even = len({len(table) for table in self._tables}) == 1
        return _as_row([block for table in self._tables for block in table]) if is_even else None

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Block of each new token and where in it the token lies, each [B, T]."""
        size = self.cache.block_size
        columns = (self.positions // size).expand(len(self.tables), -1)
        return self.tables.gather(1, columns), self.positions % size

    def _append(self, layer: int, part: int, new: Tensor) -> Tensor:
        """Store [B, K, T, …] in a part of a layer and give all of [B, K, L, …]."""
        if self._row is None:
            stored = self.cache.layers[layer][part]
            stored[:, *self._places] = new.transpose(0, 1).to(stored.dtype)
            rows = stored[:, self.tables].flatten(2, 3).transpose(0, 1)
        else:
            rows = self.cache.rows(self._row, self.batch)[layer][part]
            if self.is_ragged:
                every = torch.arange(self.batch, device=new.device)[:, None]
                rows[every, :, self.positions] = new.transpose(1, 2).to(rows.dtype)
            else:
                rows[:, :, self.starts[0] : self.length] = new
        return rows[:, :, : self.length].to(self.cache.compute_dtype)


def _evenly(row: Tensor, batch: int) -> Tensor:
    """[K, blocks, tokens of a block, …], of which each sequence has as many in turn, as [B, K, tokens, …]."""
    return row.view(len(row), batch, -1, *row.shape[3:]).transpose(0, 1)


def _as_row(blocks: List[int]) -> slice | None:
    """The slice that is just these blocks in this order; None where they do not lie in a row."""
    row = range(blocks[0], blocks[0] + len(blocks))
    return slice(row.start, row.stop) if list(row) == list(blocks) else None


def round_vectors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric rounding to 8 bits with a scale for each vector.

    Args:
        x: floats [..., D].

    Returns:
        codes int8 [..., D] in -127 … 127; scales fp32 [...].
    """
    x = x.float()
    scales = x.abs().amax(-1) / 127
    codes = (x / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round()
    return codes.to(torch.int8), scales
