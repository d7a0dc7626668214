"""What a transformer block does to each token by itself: norm, gate, sum, rotation; see rows.c.

Activations are fp32 or bf16 on the CPU; nothing here has a gradient. Functions named `…_call` only describe the call
that does it, for a `Program`.
"""

import torch
from torch import Tensor

from labkit.model.native.build import Call, call


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., width] · weight / root mean square over the last dimension."""
    x = x.contiguous()
    y = torch.empty_like(x)
    call(*rms_norm_call(y, x, weight, eps))
    return y


def rms_norm_call(y: Tensor, x: Tensor, weight: Tensor, eps: float) -> Call:
    """y may be x."""
    width = weight.numel()
    return "labkit_rms_norm", y, x, weight, x.numel() // width, width, eps, x.dtype is torch.bfloat16


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of [..., 2 · width], gate first; returns [..., width]."""
    gate_up = gate_up.contiguous()
    y = torch.empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2), dtype=gate_up.dtype)
    call(*swiglu_call(y, gate_up))
    return y


def swiglu_call(y: Tensor, gate_up: Tensor) -> Call:
    """See `swiglu`."""
    width = y.shape[-1]
    return "labkit_swiglu", y, gate_up, y.numel() // width, width, y.dtype is torch.bfloat16


def add_call(y: Tensor, x: Tensor, z: Tensor) -> Call:
    """y = x + z, all [rows, width] or z [width]; y may be x."""
    num_rows, width = x.shape
    return "labkit_add", y, x, z, num_rows, width, width if z.ndim > 1 else 0, x.dtype is torch.bfloat16


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn the pairs (i, i + D/2) of each head of x [B, T, heads, D] in place; x may be the first heads of more.

    cos and sin are [B or 1, T, 1, D]; `sin` carries the sign of the pair's half.
    """
    batch, num_tokens, num_heads, width = x.shape
    turn = num_tokens * width if cos.shape[0] > 1 else 0
    is_bf16 = x.dtype is torch.bfloat16
    cos, sin = cos.contiguous(), sin.contiguous()
    call("labkit_rotate", x, cos, sin, batch * num_tokens, num_tokens, turn, x.stride(1), num_heads, width, is_bf16)
