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
from labkit.model.transformer import Transformer


class _Part(NamedTuple):
    view: CacheView
    tokens: slice  # of the row
    mask: Tensor | None


class MixedView:
    """Views of a KVCache side by side; a `KVStore` of the transformer for one row of all their new tokens."""

    needs_mask = False  # each view has its own
    is_ragged = False

    def __init__(self, views: List[CacheView], model: Transformer) -> None:
        self.length = max(view.length for view in views)
        self._parts, start = [], 0
        for view in views:
            end = start + view.batch * view.num_new
            self._parts.append(_Part(view, slice(start, end), model.mask(view, view.num_new)))
            start = end
        positions = [view.positions.expand(view.batch, -1).flatten() for view in views]
        self.positions = torch.cat(positions)[None]

    def attend(
        self,
        layer: int,
        qkv: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        *,
        window: int | None,
    ) -> Tensor:
        """[1, N, H + 2 K, D] → [1, N, H·D], each sequence over what is stored of it."""
        outputs = []
        for view, tokens, own_mask in self._parts:
            own, *turn = (x[0, tokens].view(view.batch, -1, *x.shape[2:]) for x in (qkv, *(rotation or ())))
            own_rotation = (turn[0], turn[1]) if turn else None
            outputs.append(view.attend(layer, own, own_rotation, own_mask, window=window).flatten(0, 1))
        return torch.cat(outputs)[None]
