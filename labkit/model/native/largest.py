"""The largest of many scores, in one reading of them; see largest.c."""

import torch
from torch import Tensor

from labkit.model.native.build import call, has_kernels

_MOST = 256  # each that comes in moves those below it; of more, torch sorts


def can_select(scores: Tensor, k: int) -> bool:
    """Whether `largest` takes these."""
    return k <= _MOST and scores.dtype is torch.float32 and has_kernels(device=scores.device.type, dtype=scores.dtype)


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of finite fp32 scores [rows, n], falling, and their positions: [rows, k] each."""
    scores = scores.contiguous()
    num_rows, num = scores.shape
    values, positions = torch.empty(num_rows, k), torch.empty(num_rows, k, dtype=torch.int64)
    call("labkit_largest", values, positions, scores, num_rows, num, k)
    return values, positions
