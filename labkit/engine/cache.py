"""KVCache: keys and values of earlier tokens, so that a step computes only the new ones.

Storage is one tensor a layer for keys and one for values, [slots, K, capacity, D]. A sequence owns a slot and stands
in it from index 0, so a batch in neighbouring slots is read as one slice at its live length: no gather, no padding
beyond the longest. Capacity grows in whole blocks of `block_size` tokens, and blocks are the unit in which memory is
accounted.
"""

from collections.abc import Sequence as List
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.engine.sequence import Sequence
from labkit.model.config import ModelConfig
from labkit.model.native import decode
from labkit.model.native.build import has_kernels

if TYPE_CHECKING:
    from labkit.engine.prefix import PrefixCache

Block = tuple[Tensor, ...]
"""What a cache stores for a run of tokens, over all layers: keys and values, each [layers, K, tokens, D]."""


class KVCache:
    """Room for the keys and values of running sequences.

    Args:
        config: sizes of the model.
        dtype: of the stored keys and values; attention runs in `compute_dtype`.
        block_size: tokens in a block.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: torch.dtype, compute_dtype: torch.dtype, device: str, block_size: int
    ) -> None:
        self.config, self.dtype, self.compute_dtype, self.device = config, dtype, compute_dtype, device
        self.block_size = block_size
        self.prefixes: PrefixCache | None = None  # what earlier prompts left for those that begin alike
        self.capacity = 0
        self.layers: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * config.num_layers
        self.num_slots = 0
        self.free_slots: list[int] = []
        self.has_native_attention = (
            has_kernels(device=device, dtype=dtype)
            and dtype == compute_dtype
            and decode.can_attend(
                head_dim=config.head_dim, num_heads=config.num_heads, num_kv_heads=config.num_kv_heads
            )
        )

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    @property
    def block_bytes(self) -> int:
        """Memory of one block over all layers, in bytes."""
        values = 2 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim * self.block_size
        return values * self.dtype.itemsize

    def admit(self, sequences: List[Sequence]) -> None:
        """Give each sequence a slot that holds it to its last token, and what is known of its beginning.

        Neighbours where possible.
        """
        longest = max(sequence.max_tokens for sequence in sequences)
        self._reserve(len(sequences), -(-longest // self.block_size) * self.block_size)
        for sequence in sequences:
            sequence.slot = self.free_slots.pop(0)
            sequence.num_cached = self.prefixes.restore(sequence) if self.prefixes is not None else 0

    def keep(self, sequences: List[Sequence]) -> None:
        """Let later prompts begin with the prompts of these sequences, which are in their slots now."""
        if self.prefixes is not None:
            for sequence in sequences:
                self.prefixes.keep(sequence)

    def release(self, sequences: List[Sequence]) -> None:
        """Take the slots back."""
        for sequence in sequences:
            if sequence.slot is not None:
                self.free_slots.append(sequence.slot)
                sequence.slot, sequence.num_cached = None, 0
        self.free_slots.sort()

    def view(self, sequences: List[Sequence], num_new: int) -> "CacheView":
        """The cache as the transformer sees it while these sequences append `num_new` tokens each."""
        return CacheView(self, sequences, num_new)

    @property
    def block_layout(self) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Shape and dtype of each part of a block."""
        config = self.config
        shape = (config.num_layers, config.num_kv_heads, self.block_size, config.head_dim)
        return ((shape, self.dtype), (shape, self.dtype))

    def read(self, slot: int, start: int, end: int) -> Block:
        """A copy of what a slot holds of tokens `start` to `end`, bit for bit."""
        parts = zip(*self.layers, strict=True)
        return tuple(torch.stack([stored[slot, :, start:end] for stored in part]) for part in parts)

    def write(self, slot: int, blocks: List[Block]) -> None:
        """Put blocks into a slot, one behind the other from its first token on; at least one."""
        length = len(blocks) * self.block_size
        for index, part in enumerate(zip(*self.layers, strict=True)):
            by_layer = zip(*(block[index].unbind() for block in blocks), strict=True)
            for stored, copies in zip(part, by_layer, strict=True):  # one operation a layer, not one a block
                torch.cat(copies, dim=1, out=stored[slot, :, :length])

    def _reserve(self, num_new_slots: int, capacity: int) -> None:
        """Grow to that many free slots of at least that capacity, keeping what is stored."""
        slots = self.num_slots + max(0, num_new_slots - len(self.free_slots))
        capacity = max(capacity, self.capacity)
        if (slots, capacity) == (self.num_slots, self.capacity):
            return
        shape = (slots, self.config.num_kv_heads, capacity, self.config.head_dim)
        for index, (old_keys, old_values) in enumerate(self.layers):
            keys, values = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
            if self.num_slots:
                keys[: self.num_slots, :, : self.capacity] = old_keys
                values[: self.num_slots, :, : self.capacity] = old_values
            self.layers[index] = (keys, values)
        self.free_slots += range(self.num_slots, slots)
        self.num_slots, self.capacity = slots, capacity


class CacheView:
    """A batch's window on a KVCache during one step; a `KVStore` of the transformer."""

    def __init__(self, cache: KVCache, sequences: List[Sequence], num_new: int) -> None:
        self.cache = cache
        slots = [sequence.slot for sequence in sequences]
        starts = [sequence.num_cached for sequence in sequences]
        first = slots[0]
        assert first is not None
        self.can_attend = num_new == 1 and cache.has_native_attention
        if self.can_attend:
            self.places = torch.tensor((slots, starts))
        self.is_contiguous = slots == list(range(first, first + len(slots)))
        self.is_ragged = len(set(starts)) > 1
        self.start = starts[0]
        self.length = max(starts) + num_new
        self.rows: slice | Tensor = slice(first, first + len(slots))
        if not self.is_contiguous:
            self.rows = torch.tensor(slots, device=cache.device)
        new = torch.arange(num_new, device=cache.device)
        if self.is_ragged:
            self.positions = torch.tensor(starts, device=cache.device)[:, None] + new
            self.slots = torch.tensor(slots, device=cache.device)[:, None]
        else:
            self.positions = (self.start + new)[None]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, K, T, D] of the new tokens; returns keys and values of all L tokens, [B, K, L, D]."""
        return self._append(self.cache.layers[layer][0], keys), self._append(self.cache.layers[layer][1], values)

    def attend(self, layer: int, qkv: Tensor, rotation: tuple[Tensor, Tensor], *, window: int | None) -> Tensor:
        """Rotate and store one new token of each sequence and attend, each at its own length."""
        return decode.attend(qkv, rotation, self.cache.layers[layer], self.places, window=window)

    def _append(self, stored: Tensor, new: Tensor) -> Tensor:
        if self.is_ragged:
            stored[self.slots, :, self.positions] = new.transpose(1, 2).to(stored.dtype)
        else:
            stored[self.rows, :, self.start : self.length] = new
        return stored[self.rows, :, : self.length].to(self.cache.compute_dtype)
