"""Products of few rows with weights: floats, and integers with their scales; the C sources say the layouts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.model.native.build import Call, call

DTYPES = (torch.float32, torch.bfloat16)
"""Of the activations that kernels take as they are."""

_BLOCK = 16  # rows that lie together in blocked layouts


@dataclass(frozen=True)
class Packed:
    """Weights laid out for a kernel, which multiplies by them: x [..., in] → [..., out], in fp32 or x's bf16.

    `group` is how many columns share a scale; None: there are no groups.
    """

    function: str
    tensors: tuple[Tensor, ...]
    out_features: int
    group: int | None = None

    def multiply(self, x: Tensor) -> Tensor:
        """See Packed; x of another dtype gives fp32.

        Raises:
            MemoryError: none is left for the kernel's copy of the activations.
        """
        x = (x if x.dtype in DTYPES else x.float()).contiguous()
        y = torch.empty((*x.shape[:-1], self.out_features), dtype=x.dtype)
        call(*self.call(y, x))
        return y

    def call(self, y: Tensor, x: Tensor) -> Call:
        """Describes the call that writes y, for a `Program`."""
        in_features = x.shape[-1]
        sizes = (x.numel() // in_features, self.out_features, in_features)
        group = () if self.group is None else (self.group,)
        return self.function, y, x, *self.tensors, *sizes, *group, x.dtype is torch.bfloat16


def floats(weight: Tensor) -> Packed:
    """Weights [out, in], of the dtype of the activations."""
    return Packed("labkit_float", (weight,), len(weight))


def int8(codes: Tensor, scales: Tensor) -> Packed:
    """codes · scale; codes int8 [out, in], scales bf16 [out]."""
    return Packed("labkit_int8", (codes, scales), len(codes))


def int4(codes: Tensor, scales: Tensor, zeros: Tensor, *, out_features: int, group: int) -> Packed:
    """(codes - 8) · scale + zero; codes as of `pack4`, scales and zeros as of `pack_groups`."""
    return Packed("labkit_int4", (codes, scales, zeros), out_features, group)


def int8_rounded(codes: Tensor, scales: Tensor, *, out_features: int) -> Packed:
    """`int8` for activations rounded to 8 bits row by row; codes as of `pack8_rounded`, scales bf16, padded."""
    return Packed("labkit_int8_int8", (codes, scales), out_features)


def int4_rounded(codes: Tensor, scales: Tensor, zeros: Tensor, *, out_features: int, group: int) -> Packed:
    """`int4` for activations rounded to 8 bits row by row; codes as of `pack4_rounded`."""
    return Packed("labkit_int4_int8", (codes, scales, zeros), out_features, group)


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
    unsigned = _blocks(padded).view(torch.uint8) ^ 128  # the same sum, without a wider copy
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
