"""MixedView: chunks of prompts and decoding sequences in one row of tokens, without padding.

Linear layers do not care whose token a row is, so what a step computes for several sequences stands in one row, and
weights are read once for all of it; only attention looks at each sequence by itself. Source: Yu et al. 2022, Orca
(selective batching); Agrawal et al. 2023, Sarathi (chunks of prompts beside decoding).
"""

from collections.abc import Sequence as List
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.engine.cache import CacheView
from labkit.model.native.build import has_kernels
from labkit.model.transformer import Transformer, attend, rotated


class _Part(NamedTuple):
    view: CacheView
    tokens: slice  # of the row
    batch: int
    mask: Tensor | None


class MixedView:
    """Views of a KVCache side by side; a `KVStore` of the transformer for one row of all their new tokens."""

    can_attend = True
    is_ragged = False

    def __init__(self, views: List[CacheView], model: Transformer) -> None:
        cache = views[0].cache
        self.length = max(view.length for view in views)
        self._num_kv_heads = cache.config.num_kv_heads
        self._is_native = has_kernels(device=cache.device, dtype=cache.compute_dtype)
        self._parts, start = [], 0
        for view in views:
            end = start + view.batch * view.num_new
            self._parts.append(_Part(view, slice(start, end), view.batch, model.mask(view, view.num_new)))
            start = end
        positions = [view.positions.expand(view.batch, -1).flatten() for view in views]
        self.positions = torch.cat(positions)[None]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Not for a row whose tokens are of several sequences: `attend` appends those of each."""
        raise NotImplementedError

    def attend(self, layer: int, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None, *, window: int | None) -> Tensor:
        """[1, N, H + 2 K, D] → [1, N, H·D], each sequence over what is stored of it."""
        outputs = []
        for view, tokens, batch, mask in self._parts:
            own, *turn = (x[0, tokens].view(batch, -1, *x.shape[2:]) for x in (qkv, *(rotation or ())))
            angles = None if rotation is None else (turn[0], turn[1])
            if view.can_attend:
                output = view.attend(layer, own, angles, window=window)
            else:
                q, k, v = rotated(own, angles, num_kv_heads=self._num_kv_heads, is_native=self._is_native)
                output = attend(q, *view.append(layer, k, v), mask)
            outputs.append(output.flatten(0, 1))
        return torch.cat(outputs)[None]
