"""Products of few rows with weights: floats, and integers with their scales; the C sources say the layouts."""

import torch
from torch import Tensor

from labkit.model.native.build import library

_DTYPES = (torch.float32, torch.bfloat16)
_BLOCK = 16  # rows that lie together in blocked layouts


def multiply_float(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times weightᵀ [out, in], both fp32 or both bf16."""
    return _product("labkit_float", x, (weight,), weight.shape[0])


def multiply8(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """x [..., in] times (codes · scale)ᵀ, in fp32 or x's bf16; codes int8 [out, in], scales bf16 [out]."""
    return _product("labkit_int8", x, (codes, scales), codes.shape[0])


def multiply4(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, *, out_features: int) -> Tensor:
    """x [..., in] times ((codes - 8) · scale + zero)ᵀ; codes as of `pack4`, scales and zeros as of `pack_groups`."""
    return _product("labkit_int4", x, (codes, scales, zeros), out_features, x.shape[-1] // scales.shape[1])


def multiply8_rounded(x: Tensor, codes: Tensor, scales: Tensor, *, out_features: int) -> Tensor:
    """`multiply8` of activations rounded to 8 bits row by row; codes as of `pack8_rounded`, scales bf16, padded."""
    return _product("labkit_int8_int8", x, (codes, scales), out_features)


def multiply4_rounded(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, *, out_features: int) -> Tensor:
    """`multiply4` of activations rounded to 8 bits row by row; codes as of `pack4_rounded`."""
    return _product("labkit_int4_int8", x, (codes, scales, zeros), out_features, x.shape[-1] // scales.shape[1])


def pack4(codes: Tensor) -> Tensor:
    """Two codes a byte, 16 rows a block: uint8 [out, in] in 0 … 15 → [out / 16, in / 4, 32]; `in` a multiple of 4."""
    blocks = _blocks(codes)  # [blocks, 16, in]
    low, high = blocks.view(len(blocks), _BLOCK, -1, 2, 2).permute(3, 0, 2, 1, 4)  # each [blocks, in / 4, 16, 2]
    packed: Tensor = low | (high << 4)
    return packed.flatten(2)


def pack_groups(factors: Tensor) -> Tensor:
    """Scales or zeros in the same blocks: [out, groups] → bf16 [out / 16, groups, 16]."""
    return _blocks(factors.bfloat16()).transpose(1, 2).contiguous()


def pack8_rounded(codes: Tensor) -> Tensor:
    """Codes + 128, four columns of 16 rows together: int8 [out, in] → uint8 [out / 16, in / 4, 64]."""
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 4))
    unsigned = (_blocks(padded).int() + 128).to(torch.uint8)
    packed: Tensor = unsigned.view(len(unsigned), _BLOCK, -1, 4).transpose(1, 2)
    return packed.flatten(2)


def pack4_rounded(codes: Tensor) -> Tensor:
    """Two codes a byte, eight columns of 16 rows together: uint8 [out, in] → [out / 16, in / 8, 64]."""
    blocks = _blocks(codes)
    low, high = blocks.view(len(blocks), _BLOCK, -1, 2, 4).permute(3, 0, 2, 1, 4)  # each [blocks, in / 8, 16, 4]
    packed: Tensor = low | (high << 4)
    return packed.flatten(2)


def _blocks(rows: Tensor) -> Tensor:
    """[out, n] → [out / 16, 16, n], the last block filled with zeros."""
    padded: Tensor = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _BLOCK))
    return padded.reshape(-1, _BLOCK, rows.shape[1])


def _product(name: str, x: Tensor, weights: tuple[Tensor, ...], out_features: int, *group: int) -> Tensor:
    """[..., in] → [..., out]: the one call that all kernels share, some thirty times a token, so it does no more.

    Raises:
        MemoryError: none is left for the kernel's copy of the activations.
    """
    dtype = x.dtype
    if dtype not in _DTYPES:
        x, dtype = x.float(), torch.float32
    x = x.contiguous()
    shape = x.shape
    in_features = shape[-1]
    y = torch.empty((*shape[:-1], out_features), dtype=dtype)
    status = getattr(library(), name)(
        y.data_ptr(),
        x.data_ptr(),
        *map(Tensor.data_ptr, weights),
        x.numel() // in_features,
        out_features,
        in_features,
        *group,
        dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    if status:
        raise MemoryError("no memory for the activations of a native kernel")
    return y
