"""The table of kernels: every way that is known here to multiply few or many rows by a matrix.

No kernel wins everywhere: `labkit.model.linear` times those that are usable for a layer and takes the fastest. Kernels
named `native_…` are compiled on this machine, see `labkit.model.native`. The last kernel for each number of bits works
everywhere and is what the others are tested against.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.model import sparse
from labkit.model.native import build, products
from labkit.model.native.program import Program

if TYPE_CHECKING:
    from labkit.model.linear import KernelLayer, Linear, QuantizedLinear

_FEW_ROWS = 64  # up to here native products of floats are tried
_INNER_K_TILES = 8


@dataclass(frozen=True)
class Kernel:
    """One way to multiply by a matrix, for up to `max_rows` rows of activations.

    `dequantizes`: it writes the weights out as floats before it multiplies, and so reads more than it saves.
    `native`: a layer's weights as native kernels take them, where this is one.
    """

    name: str
    is_usable: Callable[[Any], bool]
    pack: Callable[[Any], tuple[Tensor, ...]]
    multiply: Callable[[Any, Tensor], Tensor]
    max_rows: int = sys.maxsize
    dequantizes: bool = False
    native: Callable[[Any], products.Packed] | None = None

    def chain(self, x: Tensor, layers: "Sequence[KernelLayer]") -> Callable[[], object]:
        """One call that multiplies by some layers of one shape; of native kernels it is replayed, as in a step."""
        if self.native is None or x.dtype not in products.DTYPES:
            return lambda: [self.multiply(layer, x) for layer in layers]
        y = torch.empty((*x.shape[:-1], layers[0].out_features), dtype=x.dtype)
        calls = [self.native(layer).call(y, x.contiguous()) for layer in layers]
        return Program(calls, held=calls).run


def _has(name: str) -> bool:
    return hasattr(torch.ops.aten, name)  # private operators may vanish with a release of torch


def _is(layer: "KernelLayer", bits: int, *, device: str | None = None, activation_bits: int = 16) -> bool:
    """Whether a layer holds integers of that many bits, for activations of that many."""
    return (
        layer.is_quantized
        and not layer.is_float8
        and (layer.bits, layer.activation_bits) == (bits, activation_bits)
        and device in (None, layer.device_type)
    )


def _has_native(layer: "KernelLayer", bits: int, *, activation_bits: int = 16) -> bool:
    return _is(layer, bits, device="cpu", activation_bits=activation_bits) and build.native().library is not None


def _never(layer: "KernelLayer") -> bool:
    return False


def _nothing(layer: "KernelLayer") -> tuple[Tensor, ...]:
    return ()


def _rows(x: Tensor) -> Tensor:
    """[..., in] → [rows, in] in bf16, as kernels of torch want it."""
    return x.reshape(-1, x.shape[-1]).bfloat16()


def _like(y: Tensor, x: Tensor) -> Tensor:
    """[rows, out] → [..., out] in the dtype of x."""
    return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def round_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric rounding to 8 bits, one scale a row: [..., in] → int8 [rows, in], fp32 [rows, 1]."""
    rows = x.reshape(-1, x.shape[-1]).float()
    scales = rows.abs().amax(-1, keepdim=True) / 127
    return (rows / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8), scales


def round_to_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounding to 8-bit floats (e4m3), one scale a row: [..., in] → float8_e4m3fn [rows, in], fp32 [rows, 1].

    The largest of a row becomes 448, the largest that there is. Source: Micikevicius et al. 2022, FP8 Formats for Deep
    Learning.
    """
    rows = x.reshape(-1, x.shape[-1]).float()
    most = torch.finfo(torch.float8_e4m3fn).max
    scales = (rows.abs().amax(-1, keepdim=True) / most).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scales).clamp(-most, most).to(torch.float8_e4m3fn), scales  # beyond the largest lies no infinity


# ---- floats ----


def _fits_native_float(layer: "Linear") -> bool:
    return not layer.is_quantized and build.has_kernels(device=layer.device_type, dtype=layer.weight.dtype)


# ---- 8 bits ----


def _codes8(layer: "QuantizedLinear") -> tuple[Tensor, ...]:
    return layer.codes, layer.scales.bfloat16()


def _native_int8_int8_pack(layer: "QuantizedLinear") -> tuple[Tensor, ...]:
    return products.pack8_rounded(layer.codes), products.pack_groups(layer.scales[:, None])


def _fits_int_mm(layer: "KernelLayer") -> bool:
    # beside the native one a second layout would double the memory, and it would not be chosen
    sizes_fit = layer.in_features % 8 == 0 and layer.out_features % 8 == 0
    return (
        _is(layer, 8, activation_bits=8)
        and sizes_fit
        and _has("_int_mm")
        and not _has_native(layer, 8, activation_bits=8)
    )


def _int_mm_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    codes, scales = layer.packed["int_mm"]
    rows, row_scales = round_activations(x)
    missing = max(0, _FEWEST_ROWS_CUDA - len(rows)) if x.is_cuda else 0
    sums = torch._int_mm(F.pad(rows, (0, 0, 0, missing)), codes.t())[: len(rows)]
    return _like(sums * row_scales * scales.float(), x)


_FEWEST_ROWS_CUDA = 17  # what cuBLAS takes


def _int8pack_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    codes, scales = layer.packed["int8pack"]
    return _like(torch.ops.aten._weight_int8pack_mm(_rows(x), codes, scales), x)


def _dequantize8_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    codes, scales = layer.packed["dequantize8"]
    return F.linear(_as_rounded(layer, x), codes.to(x.dtype)) * scales.to(x.dtype)


def _as_rounded(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    """The activations as a layer meets them: rounded, where it multiplies integers."""
    if layer.activation_bits > 8:
        return x
    codes, scales = round_to_float8(x) if layer.is_float8 else round_activations(x)
    return (codes.float() * scales).view(x.shape).to(x.dtype)


# ---- 8 bits, floats ----

_SCALED_MM_MULTIPLE = 16  # of both sizes of a matrix, what tensor cores take


def _fits_scaled_mm(layer: "QuantizedLinear") -> bool:
    sizes_fit = layer.in_features % _SCALED_MM_MULTIPLE == 0 and layer.out_features % _SCALED_MM_MULTIPLE == 0
    return layer.is_float8 and layer.device_type == "cuda" and sizes_fit and hasattr(torch, "_scaled_mm")


def _float8_pack(layer: "QuantizedLinear") -> tuple[Tensor, ...]:
    return layer.codes.view(torch.uint8), layer.scales  # bytes, which every operation of torch takes


def _scaled_mm_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    codes, scales = layer.packed["scaled_mm"]
    rows, row_scales = round_to_float8(x)
    weight = codes.view(torch.float8_e4m3fn).t()
    product = torch._scaled_mm(rows, weight, scale_a=row_scales, scale_b=scales[None], out_dtype=torch.bfloat16)
    return _like(product, x)


def _dequantize_float8_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    codes, scales = layer.packed["dequantize_float8"]
    weight = codes.view(torch.float8_e4m3fn).to(x.dtype) * scales.to(x.dtype)[:, None]
    return F.linear(_as_rounded(layer, x), weight)


# ---- 4 bits ----


def _fits_native_int4(layer: "QuantizedLinear", activation_bits: int = 16) -> bool:
    return _has_native(layer, 4, activation_bits=activation_bits) and layer.group_size % 32 == 0


def _blocks4(pack: Callable[[Tensor], Tensor], layer: "QuantizedLinear") -> tuple[Tensor, ...]:
    assert layer.zeros is not None
    return pack(layer.codes), products.pack_groups(layer.scales), products.pack_groups(layer.zeros)


def _packed4(name: str, make: Callable[..., products.Packed], layer: "QuantizedLinear") -> products.Packed:
    return make(*layer.packed[name], out_features=layer.out_features, group=layer.group_size)


def _fits_int4pack(layer: "KernelLayer", device: str, multiple: int) -> bool:
    return (
        _is(layer, 4, device=device)
        and layer.group_size in (32, 64, 128, 256)
        and layer.out_features % multiple == 0
        and layer.in_features % 32 == 0
    )


def _scales_and_zeros(layer: "QuantizedLinear") -> Tensor:
    """[in / group, out, 2] in bf16, as both int4 kernels of torch want it."""
    assert layer.zeros is not None
    return torch.stack((layer.scales.T, layer.zeros.T), dim=-1).bfloat16().contiguous()


def _int4pack_cpu_pack(layer: "QuantizedLinear") -> tuple[Tensor, ...]:
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(layer.codes.int(), 1)
    return packed, _scales_and_zeros(layer)


def _int4pack_cpu_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    codes, scales = layer.packed["int4pack"]
    return _like(torch.ops.aten._weight_int4pack_mm_for_cpu(_rows(x), codes, layer.group_size, scales), x)


def _int4pack_cuda_pack(layer: "QuantizedLinear") -> tuple[Tensor, ...]:
    pairs = (layer.codes[:, ::2] << 4) | layer.codes[:, 1::2]  # two codes a byte, the even column in the high half
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), _INNER_K_TILES)
    return packed, _scales_and_zeros(layer)


def _int4pack_cuda_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    codes, scales = layer.packed["int4pack_cuda"]
    return _like(torch.ops.aten._weight_int4pack_mm(_rows(x), codes, layer.group_size, scales), x)


def _dequantize4_pack(layer: "QuantizedLinear") -> tuple[Tensor, ...]:
    assert layer.zeros is not None
    return layer.codes[:, ::2] | (layer.codes[:, 1::2] << 4), layer.scales, layer.zeros


def _dequantize4_multiply(layer: "QuantizedLinear", x: Tensor) -> Tensor:
    pairs, scales, zeros = layer.packed["dequantize4"]
    codes = torch.stack((pairs & 15, pairs >> 4), dim=-1).view(layer.out_features, -1, layer.group_size)
    weight = (codes.to(x.dtype) - 8) * scales.to(x.dtype)[..., None] + zeros.to(x.dtype)[..., None]
    return F.linear(_as_rounded(layer, x), weight.flatten(1))


def _native(
    name: str,
    is_usable: Callable[[Any], bool],
    pack: Callable[[Any], tuple[Tensor, ...]],
    packed: Callable[[Any], products.Packed],
    *,
    max_rows: int = sys.maxsize,
) -> Kernel:
    """A kernel of ours, of which it is enough to say how it takes its weights."""
    return Kernel(
        name, is_usable, pack, lambda layer, x: packed(layer).multiply(x).to(x.dtype), max_rows=max_rows, native=packed
    )


KERNELS: tuple[Kernel, ...] = (
    _native(
        "native_float",
        _fits_native_float,
        _nothing,
        lambda layer: products.floats(layer.weight),
        max_rows=_FEW_ROWS,
    ),
    Kernel("torch", lambda layer: not layer.is_quantized, _nothing, lambda layer, x: F.linear(x, layer.weight)),
    Kernel(
        "csr",
        lambda layer: not layer.is_quantized and sparse.fits_csr(layer.weight, layer.density),
        lambda layer: sparse.pack_csr(layer.weight),
        lambda layer, x: sparse.multiply_csr(x, *layer.packed["csr"]),
    ),
    Kernel(
        "semi_structured",
        lambda layer: not layer.is_quantized and sparse.fits_fours(layer.weight, layer.density),
        lambda layer: sparse.pack_fours(layer.weight),
        lambda layer, x: sparse.multiply_fours(x, *layer.packed["semi_structured"]),
    ),
    _native(
        "native_int8",
        lambda layer: _has_native(layer, 8),
        _codes8,
        lambda layer: products.int8(*layer.packed["native_int8"]),
    ),
    _native(
        "native_int8_int8",
        lambda layer: _has_native(layer, 8, activation_bits=8),
        _native_int8_int8_pack,
        lambda layer: products.int8_rounded(*layer.packed["native_int8_int8"], out_features=layer.out_features),
    ),
    _native(
        "native_int4",
        _fits_native_int4,
        partial(_blocks4, products.pack4),
        partial(_packed4, "native_int4", products.int4),
    ),
    _native(
        "native_int4_int8",
        lambda layer: _fits_native_int4(layer, activation_bits=8),
        partial(_blocks4, products.pack4_rounded),
        partial(_packed4, "native_int4_int8", products.int4_rounded),
    ),
    Kernel("int_mm", _fits_int_mm, _codes8, _int_mm_multiply),
    Kernel(
        "int8pack",
        # torch's kernel reads rows in steps of 16 and past their end without asking
        lambda layer: _is(layer, 8) and layer.in_features % 16 == 0 and _has("_weight_int8pack_mm"),
        _codes8,
        _int8pack_multiply,
    ),
    Kernel(
        "int4pack",
        # a second layout would double the memory, and the native one is faster for few rows and for many
        lambda layer: (
            _fits_int4pack(layer, "cpu", 16) and _has("_weight_int4pack_mm_for_cpu") and not _fits_native_int4(layer)
        ),
        _int4pack_cpu_pack,
        _int4pack_cpu_multiply,
    ),
    Kernel(
        "int4pack_cuda",
        lambda layer: (
            _fits_int4pack(layer, "cuda", 8)
            and layer.in_features % (_INNER_K_TILES * 16) == 0
            and _has("_weight_int4pack_mm")
        ),
        _int4pack_cuda_pack,
        _int4pack_cuda_multiply,
    ),
    Kernel("scaled_mm", _fits_scaled_mm, _float8_pack, _scaled_mm_multiply),
    # of layers that torchao quantized, which pack themselves
    Kernel("torchao_16", _never, _nothing, lambda layer, x: layer.product(x), dequantizes=True),
    Kernel("torchao_8", _never, _nothing, lambda layer, x: layer.product(x)),
    Kernel(
        "dequantize8",
        lambda layer: _is(layer, 8) or (_is(layer, 8, activation_bits=8) and not _has_better(layer)),
        _codes8,
        _dequantize8_multiply,
        dequantizes=True,
    ),
    Kernel(
        "dequantize_float8",
        lambda layer: layer.is_quantized and layer.is_float8 and not _has_better(layer),
        _float8_pack,
        _dequantize_float8_multiply,
        dequantizes=True,
    ),
    Kernel(
        "dequantize4",
        lambda layer: layer.is_quantized and layer.bits == 4 and not _has_better(layer),
        _dequantize4_pack,
        _dequantize4_multiply,
        dequantizes=True,
    ),
)
"""Every kernel; of those that are usable the fastest is taken."""


def _has_better(layer: "QuantizedLinear") -> bool:
    """Whether a kernel that keeps its weights in another layout takes the layer, so that a second would cost memory."""
    return any(kernel.is_usable(layer) for kernel in KERNELS if not kernel.dequantizes)
