"""Linear layers, and the one place that knows kernels.

A layer keeps float weights or integer codes and, once `finish` has packed it, picks for each number of rows it meets
the fastest kernel that this machine has for them: every kernel that `is_usable` is timed on the real input, see
`labkit.model.choice`. No single kernel wins everywhere, so the choice is the optimization. Kernels named `native_…` are
compiled on this machine, see `labkit.model.native`. The last kernel for each number of bits works everywhere and is
what the others are tested against.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.choice import Shape, choose
from labkit.model.native import build, products

_FEW_ROWS = 16  # up to here reading the weights is the work, and native products of floats are tried


class KernelLayer(nn.Module):
    """What float and quantized layers share: kernels chosen by the number of rows."""

    in_features: int
    out_features: int
    bits: int
    num_bytes: int

    def __init__(self) -> None:
        super().__init__()
        self.kernels: dict[int, Kernel] = {}  # by the number of rows met so far
        self.seconds: dict[int, float] = {}  # what the probe of each took
        self.packed: dict[str, tuple[Tensor, ...]] = {}
        self.alike: WeakSet[KernelLayer] = WeakSet((self,))  # the layers of the model that a choice serves
        self.step_bytes = 1  # weights of the whole model, rounded up to a power of two

    def pack(self) -> None:
        """Lay the weights out for every usable kernel; call once, before the first use."""
        self.packed = {kernel.name: kernel.pack(self) for kernel in KERNELS if kernel.is_usable(self)}

    def multiply(self, x: Tensor) -> Tensor:
        """x Wᵀ of [..., in], by the fastest kernel for that many rows: [..., out] in the dtype of x."""
        num_rows = x.numel() // self.in_features
        kernel = self.kernels.get(num_rows) or self._choose(x, num_rows)
        return kernel.multiply(self, x)

    def _choose(self, x: Tensor, num_rows: int) -> "Kernel":
        """The fastest kernel for this many rows, the same for all layers of one shape."""
        bucket = _power_of_two(num_rows)
        shape = Shape(
            self.bits, self.out_features, self.in_features, bucket, str(x.dtype), x.device.type, self.step_bytes
        )
        candidates = {
            kernel.name: kernel for kernel in KERNELS if kernel.name in self.packed and bucket <= kernel.max_rows
        }
        choice = choose(
            shape,
            {name: [partial(kernel.multiply, layer, x) for layer in self.alike] for name, kernel in candidates.items()},
        )
        self.kernels[num_rows], self.seconds[num_rows] = candidates[choice.kernel], choice.seconds
        return candidates[choice.kernel]


class Linear(KernelLayer):
    """y = x Wᵀ + b with float weights [out, in]."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Bits a weight."""
        return 8 * self.weight.itemsize

    @property
    def num_bytes(self) -> int:  # type: ignore[override]
        """Memory that the weights take, in bytes."""
        return self.weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if len(self.packed) < 2:  # no choice, and not packed while it is trained
            return F.linear(x, self.weight, self.bias)
        y = self.multiply(x)
        return y if self.bias is None else y + self.bias


class QuantizedLinear(KernelLayer):
    """y = x W'ᵀ + b where W' is integer codes times scales.

    8 bits: codes int8 [out, in] in -127 … 127, scales [out]; W' = codes · scale.
    4 bits: codes uint8 [out, in] in 0 … 15, scales and zeros [out, in / group]; W' = (codes - 8) · scale + zero.
    Scales are bf16 values, the precision in which the kernels take them. `pack` turns codes into the kernels' layout.
    """

    def __init__(
        self, codes: Tensor, scales: Tensor, zeros: Tensor | None, *, bits: int, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.bits, self.bias = bits, bias
        self.codes, self.scales, self.zeros = codes, scales, zeros
        self.group_size = self.in_features // scales.shape[1] if scales.ndim == 2 else self.in_features

    def is_like(self, other: "QuantizedLinear") -> bool:
        """Whether both have the same scheme and could be rows of one matrix."""
        return (self.bits, self.group_size, self.in_features) == (other.bits, other.group_size, other.in_features)

    @property
    def num_bytes(self) -> int:  # type: ignore[override]
        """Memory that the weights take, in bytes, after packing."""
        kept = [tensor for tensors in self.packed.values() for tensor in tensors] or [self.codes, self.scales]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in kept}.values())

    def pack(self) -> None:
        """Lay the codes out for every usable kernel and let go of the originals; call once, before the first use."""
        self.codes, self.scales = self.codes.contiguous(), self.scales.contiguous()  # kernels take bare addresses
        super().pack()
        self.codes = self.scales = torch.empty(0)
        self.zeros = None

    def dequantized(self) -> Tensor:
        """W' in fp32, [out, in]; before packing only."""
        if self.zeros is None:
            return self.codes.float() * self.scales.float()[:, None]
        groups = self.codes.float().view(self.out_features, -1, self.group_size) - 8
        return (groups * self.scales.float()[..., None] + self.zeros.float()[..., None]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out], in the dtype of x."""
        y = self.multiply(x)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class Kernel:
    """One way to multiply by a matrix, for up to `max_rows` rows of activations."""

    name: str
    is_usable: Callable[[Any], bool]
    pack: Callable[[Any], tuple[Tensor, ...]]
    multiply: Callable[[Any, Tensor], Tensor]
    max_rows: int = sys.maxsize


def _has(name: str) -> bool:
    return hasattr(torch.ops.aten, name)  # private operators may vanish with a release of torch


def _is_on(layer: KernelLayer, device: str, bits: int) -> bool:
    return isinstance(layer, QuantizedLinear) and layer.bits == bits and layer.codes.device.type == device


def _is_float(layer: KernelLayer) -> bool:
    return isinstance(layer, Linear)


def _fits_native_float(layer: KernelLayer) -> bool:
    return isinstance(layer, Linear) and build.has_kernels(device=layer.weight.device.type, dtype=layer.weight.dtype)


def _nothing(layer: KernelLayer) -> tuple[Tensor, ...]:
    return ()


def _rows(x: Tensor) -> Tensor:
    """[..., in] → [rows, in] in bf16, as kernels of torch want it."""
    return x.reshape(-1, x.shape[-1]).bfloat16()


def _like(y: Tensor, x: Tensor) -> Tensor:
    """[rows, out] → [..., out] in the dtype of x."""
    return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def _int8pack_multiply(layer: QuantizedLinear, x: Tensor) -> Tensor:
    codes, scales = layer.packed["int8pack"]
    return _like(torch.ops.aten._weight_int8pack_mm(_rows(x), codes, scales), x)


def _int4pack_cpu_pack(layer: QuantizedLinear) -> tuple[Tensor, ...]:
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(layer.codes.int(), 1)
    return packed, _scales_and_zeros(layer)


def _int4pack_cpu_multiply(layer: QuantizedLinear, x: Tensor) -> Tensor:
    codes, scales = layer.packed["int4pack"]
    return _like(torch.ops.aten._weight_int4pack_mm_for_cpu(_rows(x), codes, layer.group_size, scales), x)


def _int4pack_cuda_pack(layer: QuantizedLinear) -> tuple[Tensor, ...]:
    pairs = (layer.codes[:, ::2] << 4) | layer.codes[:, 1::2]  # two codes a byte, the even column in the high half
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), _INNER_K_TILES)
    return packed, _scales_and_zeros(layer)


def _int4pack_cuda_multiply(layer: QuantizedLinear, x: Tensor) -> Tensor:
    codes, scales = layer.packed["int4pack_cuda"]
    return _like(torch.ops.aten._weight_int4pack_mm(_rows(x), codes, layer.group_size, scales), x)


def _scales_and_zeros(layer: QuantizedLinear) -> Tensor:
    """[in / group, out, 2] in bf16, as both int4 kernels want it."""
    assert layer.zeros is not None
    return torch.stack((layer.scales.T, layer.zeros.T), dim=-1).bfloat16().contiguous()


def _dequantize8_multiply(layer: QuantizedLinear, x: Tensor) -> Tensor:
    codes, scales = layer.packed["dequantize8"]
    return F.linear(x, codes.to(x.dtype)) * scales.to(x.dtype)


def _dequantize4_pack(layer: QuantizedLinear) -> tuple[Tensor, ...]:
    assert layer.zeros is not None
    return layer.codes[:, ::2] | (layer.codes[:, 1::2] << 4), layer.scales, layer.zeros


def _dequantize4_multiply(layer: QuantizedLinear, x: Tensor) -> Tensor:
    pairs, scales, zeros = layer.packed["dequantize4"]
    codes = torch.stack((pairs & 15, pairs >> 4), dim=-1).view(layer.out_features, -1, layer.group_size)
    weight = (codes.to(x.dtype) - 8) * scales.to(x.dtype)[..., None] + zeros.to(x.dtype)[..., None]
    return F.linear(x, weight.flatten(1))


def _fits_int4pack(layer: KernelLayer, device: str, multiple: int) -> bool:
    return (
        isinstance(layer, QuantizedLinear)
        and _is_on(layer, device, 4)
        and layer.group_size in (32, 64, 128, 256)
        and layer.out_features % multiple == 0
        and layer.in_features % 32 == 0
    )


def _has_native(layer: KernelLayer, bits: int) -> bool:
    return _is_on(layer, "cpu", bits) and build.native().library is not None


def _fits_native_int4(layer: KernelLayer) -> bool:
    return isinstance(layer, QuantizedLinear) and _has_native(layer, 4) and layer.group_size % 32 == 0


def _native_int8_multiply(layer: QuantizedLinear, x: Tensor) -> Tensor:
    return products.multiply8(x, *layer.packed["native_int8"]).to(x.dtype)


def _native_int4_pack(layer: QuantizedLinear) -> tuple[Tensor, ...]:
    assert layer.zeros is not None
    return products.pack4(layer.codes), products.pack_groups(layer.scales), products.pack_groups(layer.zeros)


def _native_int4_multiply(layer: QuantizedLinear, x: Tensor) -> Tensor:
    packed = layer.packed["native_int4"]
    return products.multiply4(x, *packed, out_features=layer.out_features).to(x.dtype)


_INNER_K_TILES = 8

KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "native_float",
        _fits_native_float,
        _nothing,
        lambda layer, x: products.multiply_float(x, layer.weight),
        max_rows=_FEW_ROWS,
    ),
    Kernel("torch", _is_float, _nothing, lambda layer, x: F.linear(x, layer.weight)),
    Kernel(
        "native_int8",
        lambda layer: _has_native(layer, 8),
        lambda layer: (layer.codes, layer.scales.bfloat16()),
        _native_int8_multiply,
    ),
    Kernel(
        "native_int4",
        _fits_native_int4,
        _native_int4_pack,
        _native_int4_multiply,
    ),
    Kernel(
        "int8pack",
        lambda layer: layer.bits == 8 and _has("_weight_int8pack_mm"),
        lambda layer: (layer.codes, layer.scales.bfloat16()),
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
    Kernel(
        "dequantize8",
        lambda layer: layer.bits == 8,
        lambda layer: (layer.codes, layer.scales.bfloat16()),
        _dequantize8_multiply,
    ),
    Kernel(
        "dequantize4",
        lambda layer: (
            layer.bits == 4 and not any(kernel.is_usable(layer) for kernel in KERNELS if "int4" in kernel.name)
        ),
        _dequantize4_pack,
        _dequantize4_multiply,
    ),
)
"""Every kernel; of those that are usable the fastest is taken."""


def joined(layers: "Sequence[nn.Module]") -> "Linear | QuantizedLinear | None":
    """One layer whose output is that of several over the same input, side by side; None if they differ in kind."""
    floats = [layer for layer in layers if isinstance(layer, Linear)]
    quantized = [layer for layer in layers if isinstance(layer, QuantizedLinear)]
    if len(floats) == len(layers):
        first = floats[0]
        whole = Linear(first.in_features, sum(layer.out_features for layer in floats), dtype=first.weight.dtype)
        whole.weight = _frozen([layer.weight for layer in floats])
        whole.bias = _joined_bias(floats)
        return whole
    if len(quantized) == len(layers) and all(layer.is_like(quantized[0]) for layer in quantized):
        zeros = [layer.zeros for layer in quantized if layer.zeros is not None]
        return QuantizedLinear(
            torch.cat([layer.codes for layer in quantized]),
            torch.cat([layer.scales for layer in quantized]),
            torch.cat(zeros) if zeros else None,
            bits=quantized[0].bits,
            bias=_joined_bias(quantized),
        )
    return None


def _joined_bias(layers: "Sequence[Linear | QuantizedLinear]") -> nn.Parameter | None:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return _frozen(biases) if len(biases) == len(layers) else None


def _frozen(tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat(list(tensors)), requires_grad=False)


def finish(model: nn.Module) -> None:
    """Pack every layer and let those of one shape choose together; the last step of building."""
    layers = [module for module in model.modules() if isinstance(module, KernelLayer)]
    alike: dict[tuple[object, ...], WeakSet[KernelLayer]] = {}
    for layer in layers:
        layer.pack()
        key = layer.bits, layer.out_features, layer.in_features, *layer.packed
        layer.alike = alike.setdefault(key, WeakSet())
        layer.alike.add(layer)
    step_bytes = _power_of_two(sum(layer.num_bytes for layer in layers))
    for layer in layers:
        layer.step_bytes = step_bytes


@torch.no_grad()
def touch(model: nn.Module) -> None:
    """Read all weights of a finished model once."""
    for parameter in model.parameters():
        parameter.sum()
    for module in model.modules():
        if isinstance(module, KernelLayer):
            for tensors in module.packed.values():
                for tensor in tensors:
                    tensor.sum()


@torch.no_grad()
def relocate(model: nn.Module) -> None:
    """Move all weights of a finished model to other memory, tensor by tensor; what shares memory goes on sharing it."""
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        key = tensor.data_ptr()
        if key not in moved:
            moved[key] = tensor.clone()
        return moved[key]

    for parameter in model.parameters():
        parameter.data = move(parameter.data)
    for module in model.modules():
        if isinstance(module, KernelLayer):
            module.packed = {name: tuple(map(move, tensors)) for name, tensors in module.packed.items()}


def _power_of_two(number: int) -> int:
    """The least that is not below it."""
    return 1 << (number - 1).bit_length()
