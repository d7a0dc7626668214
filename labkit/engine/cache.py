"""KVCache: keys and values of earlier tokens, so that a step computes only the new ones.

Storage is one tensor a layer for keys and one for values, [slots, K, capacity, D], and where they are int8 one for the
scales of each, [slots, K, capacity]: a scale for each token and head. A sequence owns a slot and stands in it from its
index 0 on, so a batch in neighbouring slots is read as one slice at its live length: no gather, no padding beyond the
longest. Capacity grows in whole blocks of `block_size` tokens, and blocks are the unit in which memory is accounted.
"""

from collections.abc import Sequence as List
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.engine.sequence import Sequence
from labkit.model.config import ModelConfig
from labkit.model.native import attention
from labkit.model.native.build import has_kernels

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
    """

    def __init__(
        self, config: ModelConfig, *, dtype: torch.dtype, compute_dtype: torch.dtype, device: str, block_size: int
    ) -> None:
        self.config, self.dtype, self.compute_dtype, self.device = config, dtype, compute_dtype, device
        self.block_size = block_size
        self.lookahead = 0  # tokens that a step may store beyond a sequence's last one; set by the Engine
        self.prefixes: PrefixCache | None = None  # what earlier prompts left for those that begin alike
        self.capacity = 0
        self.layers: list[tuple[Tensor, ...]] = [()] * config.num_layers
        self.num_slots = 0
        self.free_slots: list[int] = []
        self.has_native_attention = (
            has_kernels(device=device, dtype=compute_dtype)
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

    def admit(self, sequences: List[Sequence]) -> None:
        """Give each sequence a slot that holds it to its last token and the lookahead; neighbours where possible.

        What is known of its beginning is put there.
        """
        longest = max(sequence.max_tokens for sequence in sequences) + self.lookahead
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
        return self._layout(self.config.num_layers, self.config.num_kv_heads, self.block_size)

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

    def put(self, slot: int, start: int, block: Block) -> None:
        """Put what `read` gave, maybe of a cache on another device, into a slot from token `start` on."""
        for part, new in zip(zip(*self.layers, strict=True), block, strict=True):
            arrived = new.to(self.device)  # all layers at once
            for stored, copies in zip(part, arrived, strict=True):
                stored[slot, :, start : start + copies.shape[1]] = copies

    def _reserve(self, num_new_slots: int, capacity: int) -> None:
        """Grow to that many free slots of at least that capacity, keeping what is stored."""
        slots = self.num_slots + max(0, num_new_slots - len(self.free_slots))
        capacity = max(capacity, self.capacity)
        if (slots, capacity) == (self.num_slots, self.capacity):
            return
        for index, old in enumerate(self.layers):
            self.layers[index] = new = self._empty(slots, capacity)
            for old_part, new_part in zip(old, new, strict=False):  # there is nothing old at first
                new_part[: self.num_slots, :, : self.capacity] = old_part
        self.free_slots += range(self.num_slots, slots)
        self.num_slots, self.capacity = slots, capacity

    def _empty(self, slots: int, capacity: int) -> tuple[Tensor, ...]:
        """Keys and values of one layer, and their scales."""
        layout = self._layout(slots, self.config.num_kv_heads, capacity)
        return tuple(torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in layout)

    def _layout(self, *vectors: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Shape and dtype of keys and values for that many vectors, then of their scales where they are rounded."""
        parts = (((*vectors, self.config.head_dim), self.dtype),) * 2
        return parts + ((vectors, _SCALE_DTYPE),) * 2 if self.is_rounded else parts


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
        self._slots, self._starts, self._num_new = slots, starts, num_new

    @cached_property
    def positions(self) -> Tensor:
        """Position of each new token, [B, T]; [1, T] where all sequences are alike."""
        new = torch.arange(self._num_new, device=self.cache.device)
        if not self.is_ragged:
            return (self.start + new)[None]
        return torch.tensor(self._starts, device=self.cache.device)[:, None] + new

    @cached_property
    def slots(self) -> Tensor:
        """Slot of each sequence, [B, 1]."""
        return torch.tensor(self._slots, device=self.cache.device)[:, None]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, K, T, D] of the new tokens; returns keys and values of all L tokens, [B, K, L, D]."""
        stored = self.cache.layers[layer]
        if not self.cache.is_rounded:
            return self._append(stored[0], keys), self._append(stored[1], values)
        (keys, key_scales), (values, value_scales) = round_vectors(keys), round_vectors(values)
        new = (keys, values, key_scales, value_scales)
        keys, values, key_scales, value_scales = (self._append(part, by) for part, by in zip(stored, new, strict=True))
        return keys * key_scales[..., None], values * value_scales[..., None]

    def attend(self, layer: int, qkv: Tensor, rotation: tuple[Tensor, Tensor], *, window: int | None) -> Tensor:
        """Rotate and store one new token of each sequence and attend, each at its own length."""
        return attention.attend(qkv, rotation, self.cache.layers[layer], self.places, window=window)

    def _append(self, stored: Tensor, new: Tensor) -> Tensor:
        """Store [B, K, T, …] and give all of [B, K, L, …]."""
        if self.is_ragged:
            stored[self.slots, :, self.positions] = new.transpose(1, 2).to(stored.dtype)
        else:
            stored[self.rows, :, self.start : self.length] = new
        return stored[self.rows, :, : self.length].to(self.cache.compute_dtype)


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
