"""What a transformer block does to each token by itself: norm, gate, rotation; see rows.c.

Activations are fp32 or bf16 on the CPU; nothing here has a gradient.
"""

import torch
from torch import Tensor

from labkit.model.native.build import library


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., width] · weight / root mean square over the last dimension."""
    x = x.contiguous()
    y = torch.empty_like(x)
    width = weight.numel()
    library().labkit_rms_norm(
        y.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        x.numel() // width,
        width,
        eps,
        x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return y


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of [..., 2 · width], gate first; returns [..., width]."""
    gate_up = gate_up.contiguous()
    width = gate_up.shape[-1] // 2
    y = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype)
    library().labkit_swiglu(
        y.data_ptr(),
        gate_up.data_ptr(),
        y.numel() // width,
        width,
        gate_up.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn the pairs (i, i + D/2) of each head of x [B, T, heads, D] in place; x may be the first heads of more.

    cos and sin are [B or 1, T, 1, D]; `sin` carries the sign of the pair's half.
    """
    batch, num_tokens, num_heads, width = x.shape
    cos, sin = cos.contiguous(), sin.contiguous()
    library().labkit_rotate(
        x.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        batch * num_tokens,
        num_tokens,
        num_tokens * width if cos.shape[0] > 1 else 0,
        x.stride(1),
        num_heads,
        width,
        x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
