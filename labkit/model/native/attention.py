"""Attention of one new token of each sequence over what is stored of it; see attention.c.

Activations are fp32 or bf16 on the CPU; there is no gradient.
"""

import torch
from torch import Tensor

from labkit.model.native.build import Call, call

_LANES = 16  # a head's width is a multiple of this
_MAX_GROUP_VALUES = 2**14  # of the query heads of one KV head: what the kernel keeps on its stack


def can_attend(*, head_dim: int, num_heads: int, num_kv_heads: int) -> bool:
    """Whether `attend` takes these sizes."""
    return head_dim % _LANES == 0 and num_heads // num_kv_heads * head_dim <= _MAX_GROUP_VALUES


def attend(
    qkv: Tensor,
    rotation: tuple[Tensor, Tensor],
    stored: tuple[Tensor, ...],
    tables: Tensor,
    lengths: Tensor,
    *,
    window: int | None,
) -> Tensor:
    """Attention of one new token of each sequence, whose rotated key and value are stored on the way.

    Args:
        qkv: [B, 1, heads + 2 · KV heads, D], queries first, not rotated.
        rotation: cos and signed sin, each [B or 1, 1, 1, D].
        stored: keys and values, each [KV heads, blocks, tokens of a block, D] in the dtype of qkv; or as int8, followed
            by their scales, each fp32 [KV heads, blocks, tokens of a block]. Written in place.
        tables: int64 [B, columns]: the blocks that each sequence lies in, in order; beyond its last, anything.
        lengths: int64 [B]: the tokens that are stored of each.
        window: tokens that may be seen, the new one included; None: all.

    Returns:
        [B, 1, heads · D].
    """
    qkv = qkv.contiguous()
    num_heads = qkv.shape[2] - 2 * stored[0].shape[0]
    y = torch.empty((len(qkv), 1, num_heads * qkv.shape[3]), dtype=qkv.dtype)
    call(*attend_call(y, qkv, rotation, stored, tables, lengths, window=window))
    return y


def attend_call(
    y: Tensor,
    qkv: Tensor,
    rotation: tuple[Tensor, Tensor],
    stored: tuple[Tensor, ...],
    tables: Tensor,
    lengths: Tensor,
    *,
    window: int | None,
) -> Call:
    """Describes the call of `attend`, for a `Program`."""
    keys, values, *scales = stored
    batch, _, num, width = qkv.shape
    num_kv_heads, num_blocks, block_size = keys.shape[:3]
    cos, sin = rotation
    return (
        "labkit_attend",
        y,
        qkv,
        cos,
        sin,
        keys,
        values,
        *(scales or (None, None)),
        tables,
        lengths,
        batch,
        num - 2 * num_kv_heads,
        num_kv_heads,
        width,
        num_blocks,
        block_size,
        tables.shape[1],
        window or 0,
        width if cos.shape[0] > 1 else 0,
        qkv.dtype is torch.bfloat16,
    )
