"""Attention of one new token of each sequence over what is stored of it; see attention.c.

Activations are fp32 or bf16 on the CPU; there is no gradient.
"""

import torch
from torch import Tensor

from labkit.model.native.build import library

_LANES = 16  # a head's width is a multiple of this
_MAX_GROUP_VALUES = 2**14  # of the query heads of one KV head: what the kernel keeps on its stack


def can_attend(*, head_dim: int, num_heads: int, num_kv_heads: int) -> bool:
    """Whether `attend` takes these sizes."""
    return head_dim % _LANES == 0 and num_heads // num_kv_heads * head_dim <= _MAX_GROUP_VALUES


def attend(
    qkv: Tensor,
    rotation: tuple[Tensor, Tensor],
    stored: tuple[Tensor, ...],
    places: Tensor,
    *,
    window: int | None,
) -> Tensor:
    """Attention of one new token of each sequence, whose rotated key and value are stored on the way.

    Args:
        qkv: [B, 1, heads + 2 · KV heads, D], queries first, not rotated.
        rotation: cos and signed sin, each [B or 1, 1, 1, D].
        stored: keys and values, each [slots, KV heads, capacity, D] in the dtype of qkv; or as int8, followed by their
            scales, each fp32 [slots, KV heads, capacity]. Written in place.
        places: int64 [2, B]: each sequence's slot and the tokens that are stored of it.
        window: tokens that may be seen, the new one included; None: all.

    Returns:
        [B, 1, heads · D].
    """
    qkv = qkv.contiguous()
    keys, values, *scales = stored
    batch, _, num, width = qkv.shape
    num_kv_heads, capacity = keys.shape[1:3]
    num_heads = num - 2 * num_kv_heads
    cos, sin = rotation
    y = torch.empty((batch, 1, num_heads * width), dtype=qkv.dtype)
    at = places.data_ptr()
    library().labkit_attend(
        y.data_ptr(),
        qkv.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        *([part.data_ptr() for part in scales] or (None, None)),
        at,
        at + batch * places.itemsize,
        batch,
        num_heads,
        num_kv_heads,
        width,
        capacity,
        window or 0,
        width if cos.shape[0] > 1 else 0,
        qkv.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return y
