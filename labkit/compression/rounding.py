"""Rounding: weights to integers and scales, each to the nearest."""

import torch
from torch import Tensor

SHRINKS = tuple(1 - step / 32 for step in range(13))
"""Shares of a group's range that are tried as its quantized range."""


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric rounding to 8 bits, one scale a row.

    Args:
        weight: fp32 [out, in].

    Returns:
        codes int8 [out, in] in -127 … 127; scales bf16 [out]. The scale is rounded first, so codes make up for it.
    """
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-30).bfloat16()
    codes = (weight / scales.float()[:, None]).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def round_groups(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric rounding to 4 bits, one scale and zero for each group of a row, of least squared error.

    For each group the range is shrunk in small steps and the best is kept: clipping the largest weights can cost less
    than the coarser grid that they would force on all others.

    Args:
        weight: fp32 [out, in], `in` a multiple of `group_size`.

    Returns:
        codes uint8 [out, in] in 0 … 15; scales and zeros bf16 [out, in / group]; weight ≈ (codes - 8) · scale + zero.
    """
    groups = weight.view(len(weight), -1, group_size)
    high, low = groups.amax(-1, keepdim=True), groups.amin(-1, keepdim=True)
    best_error = torch.full_like(high, torch.inf)
    codes, scales, zeros = torch.zeros_like(groups), torch.ones_like(high), torch.zeros_like(high)
    for shrink in SHRINKS:
        scale = ((high - low) * shrink / 15).clamp(min=1e-30).bfloat16().float()
        zero = ((high + low) / 2 + scale / 2).bfloat16().float()  # the middle of the grid -8 … 7 lies at -1/2
        code = ((groups - zero) / scale).round().clamp(-8, 7)
        error = (code * scale + zero - groups).square().sum(-1, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        codes, scales = torch.where(is_better, code, codes), torch.where(is_better, scale, scales)
        zeros = torch.where(is_better, zero, zeros)
    return (codes + 8).to(torch.uint8).flatten(1), scales.squeeze(-1).bfloat16(), zeros.squeeze(-1).bfloat16()
