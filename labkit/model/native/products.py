"""Products of few rows with weights: floats, and integers with their scales; see products.c for the layouts."""

import torch
from torch import Tensor

from labkit.model.native.build import library

_DTYPES = (torch.float32, torch.bfloat16)
_BLOCK = 16  # rows of a 4-bit matrix that lie together


def pack4(codes: Tensor) -> Tensor:
    """Two codes a byte, 16 rows a block: uint8 [out, in] in 0 … 15 → [out / 16, in / 4, 32]; `in` a multiple of 4."""
    rows, columns = codes.shape
    padded = torch.nn.functional.pad(codes, (0, 0, 0, -rows % _BLOCK))
    low, high = padded.view(-1, _BLOCK, columns // 4, 2, 2).permute(3, 0, 2, 1, 4)  # each [blocks, in / 4, 16, 2]
    packed: Tensor = low | (high << 4)
    return packed.reshape(-1, columns // 4, 2 * _BLOCK)


def pack_groups(factors: Tensor) -> Tensor:
    """Scales or zeros in the same blocks: [out, groups] → bf16 [out / 16, groups, 16]."""
    padded = torch.nn.functional.pad(factors.bfloat16(), (0, 0, 0, -len(factors) % _BLOCK))
    return padded.view(-1, _BLOCK, factors.shape[1]).transpose(1, 2).contiguous()


def multiply_float(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times weightᵀ [out, in], both fp32 or both bf16."""
    out_features, in_features = weight.shape
    x = x.contiguous()
    y = torch.empty((*x.shape[:-1], out_features), dtype=x.dtype)
    status = library().labkit_float(
        y.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        x.numel() // in_features,
        out_features,
        in_features,
        x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return _checked(y, status)


def multiply8(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """x [..., in] times (codes · scale)ᵀ, in fp32 or x's bf16; codes int8 [out, in], scales bf16 [out]."""
    out_features, in_features = codes.shape
    x = _prepared(x)
    y = torch.empty((*x.shape[:-1], out_features), dtype=x.dtype)
    status = library().labkit_int8(
        y.data_ptr(),
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        x.numel() // in_features,
        out_features,
        in_features,
        x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return _checked(y, status)


def multiply4(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, *, out_features: int) -> Tensor:
    """x [..., in] times ((codes - 8) · scale + zero)ᵀ; codes as of `pack4`, scales and zeros as of `pack_groups`."""
    in_features = x.shape[-1]
    x = _prepared(x)
    y = torch.empty((*x.shape[:-1], out_features), dtype=x.dtype)
    status = library().labkit_int4(
        y.data_ptr(),
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        zeros.data_ptr(),
        x.numel() // in_features,
        out_features,
        in_features,
        in_features // scales.shape[1],
        x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return _checked(y, status)


def _prepared(x: Tensor) -> Tensor:
    return (x if x.dtype in _DTYPES else x.float()).contiguous()


def _checked(y: Tensor, status: int) -> Tensor:
    if status:
        raise MemoryError("no memory for the activations of a native kernel")
    return y
