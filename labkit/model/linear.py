"""Linear layers: float weights or integer codes, multiplied by the fastest kernel there is.

Once `finish` has packed a layer, it picks for each number of rows it meets the fastest kernel that this machine has for
them: every kernel of `labkit.model.kernels` that `is_usable` is timed on the real input, see `labkit.model.choice`. No
single kernel wins everywhere, so the choice is the optimization.
"""

from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model import sparse
from labkit.model.choice import Shape, choose
from labkit.model.kernels import KERNELS, Kernel
from labkit.model.pages import copied

_MIB = 2**20


class KernelLayer(nn.Module):
    """What float and quantized layers share: kernels chosen by the number of rows."""

    in_features: int
    out_features: int
    bits: int
    activation_bits: int = 16
    num_bytes: int
    device_type: str
    is_quantized: bool
    bias: nn.Parameter | None
    density: float = 1.0
    library: str = "labkit"
    is_float8: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.kernels: dict[int, Kernel] = {}  # by the number of rows met so far
        self.seconds: dict[int, float] = {}  # what each should take, by its probe
        self.packed: dict[str, tuple[Tensor, ...]] = {}
        self.alike: WeakSet[KernelLayer] = WeakSet((self,))  # the layers of the model that a choice serves
        self.step_bytes = _MIB  # weights of the whole model, rounded up
        self.version = 0  # of the addresses that its weights are at

    def pack(self) -> None:
        """Lay the weights out for every usable kernel; call once, before the first use."""
        self.packed = {kernel.name: kernel.pack(self) for kernel in KERNELS if kernel.is_usable(self)}

    @property
    def packed_bytes(self) -> int:
        """Memory of what `pack` laid out, in bytes."""
        return sum(sparse.num_bytes(tensor) for tensors in self.packed.values() for tensor in tensors)

    def multiply(self, x: Tensor) -> Tensor:
        """x Wᵀ of [..., in], by the fastest kernel for that many rows: [..., out] in the dtype of x."""
        num_rows = x.numel() // self.in_features
        kernel = self.kernels.get(num_rows) or self._choose(x, num_rows)
        return kernel.multiply(self, x)

    def _choose(self, x: Tensor, num_rows: int) -> Kernel:
        """The fastest kernel for this many rows, the same for all layers of one shape."""
        bucket = _power_of_two(num_rows)
        shape = Shape(
            self.bits,
            self.activation_bits,
            self.out_features,
            self.in_features,
            bucket,
            str(x.dtype),
            x.device.type,
            self.step_bytes,
            density=round(self.density, 1),
            library=self.library,
            is_float8=self.is_float8,
        )
        candidates = {
            kernel.name: kernel for kernel in KERNELS if kernel.name in self.packed and bucket <= kernel.max_rows
        }
        choice = choose(
            shape,
            {name: partial(kernel.chain, x) for name, kernel in candidates.items()},
            list(self.alike),
            num_rows,
        )
        self.kernels[num_rows], self.seconds[num_rows] = candidates[choice.kernel], choice.seconds_of(num_rows)
        return candidates[choice.kernel]


class Linear(KernelLayer):
    """y = x Wᵀ + b with float weights [out, in]."""

    is_quantized = False

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
        """Memory that the weights take, in bytes, with what was laid out beside them."""
        return self.weight.nbytes + self.packed_bytes

    def pack(self) -> None:
        """See KernelLayer; how many weights are zero is found out here, once they will not change any more."""
        self.density = sparse.density(self.weight)
        super().pack()

    @property
    def device_type(self) -> str:  # type: ignore[override]
        """Where the weights are: cpu or cuda."""
        return self.weight.device.type

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if len(self.packed) < 2:  # no choice, and not packed while it is trained
            return F.linear(x, self.weight, self.bias)
        y = self.multiply(x)
        return y if self.bias is None else y + self.bias


class QuantizedLinear(KernelLayer):
    """y = x W'ᵀ + b where W' is codes, integers or 8-bit floats, times scales.

    8 bits: codes int8 [out, in] in -127 … 127, scales [out]; W' = codes · scale.
    8 bits as floats: the same with codes float8_e4m3fn and scales in fp32; rows of x are rounded to such floats, too.
    4 bits: codes uint8 [out, in] in 0 … 15, scales and zeros [out, in / group]; W' = (codes - 8) · scale + zero.
    Scales of integers are bf16 values, the precision in which the kernels take them. With `activation_bits` 8 each row
    of x is rounded too, by a scale of its own. `pack` turns codes into the kernels' layout.
    """

    is_quantized = True

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        *,
        bits: int,
        activation_bits: int = 16,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.bits, self.activation_bits, self.bias = bits, activation_bits, bias
        self.device_type, self.is_float8 = codes.device.type, codes.dtype is torch.float8_e4m3fn
        self.codes, self.scales, self.zeros = codes, scales, zeros
        self.group_size = self.in_features // scales.shape[1] if scales.ndim == 2 else self.in_features

    def is_like(self, other: "QuantizedLinear") -> bool:
        """Whether both have the same scheme and could be rows of one matrix."""
        return self._scheme == other._scheme

    @property
    def _scheme(self) -> tuple[int, ...]:
        return self.bits, self.is_float8, self.activation_bits, self.group_size, self.in_features

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
            activation_bits=quantized[0].activation_bits,
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
    pack(model)
    layers = [module for module in model.modules() if isinstance(module, KernelLayer)]
    alike: dict[tuple[object, ...], WeakSet[KernelLayer]] = {}
    for layer in layers:
        key = layer.bits, layer.activation_bits, layer.out_features, layer.in_features, *layer.packed
        layer.alike = alike.setdefault(key, WeakSet())
        layer.alike.add(layer)
    step_bytes = -(-sum(layer.num_bytes for layer in layers) // _MIB) * _MIB
    for layer in layers:
        layer.step_bytes = step_bytes


def pack(module: nn.Module) -> None:
    """Pack the layers of a part of a model, or of all of it; those that are packed already stay as they are."""
    for layer in module.modules():
        if isinstance(layer, KernelLayer) and not layer.packed:
            layer.pack()


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
def choose_ahead(model: nn.Module, *, most_rows: int, dtype: torch.dtype) -> None:
    """Choose the kernels of a finished model for every number of rows up to that many, before any is met.

    A choice holds for all numbers up to the next power of two. `dtype` is that of the activations.
    """
    layers = [module for module in model.modules() if isinstance(module, KernelLayer) and len(module.packed) > 1]
    for layer in {id(layer.alike): layer for layer in layers}.values():
        for exponent in range((most_rows - 1).bit_length() + 1):
            layer.multiply(torch.randn(2**exponent, layer.in_features, dtype=dtype, device=layer.device_type))


def relocate(model: nn.Module) -> None:
    """Move all weights of a finished model to other memory, tensor by tensor; what shares memory goes on sharing it."""
    rebind(model, copied)


@torch.no_grad()
def rebind(module: nn.Module, move: Callable[[Tensor], Tensor]) -> None:
    """Have a finished module find its weights where `move` says, asked once for each tensor, always in one order."""
    moved: dict[int, Tensor] = {}

    def found(tensor: Tensor) -> Tensor:
        key = sparse.address(tensor)
        if key not in moved:
            moved[key] = move(tensor)
        return moved[key]

    for parameter in module.parameters():
        parameter.data = found(parameter.data)
    for layer in module.modules():
        if isinstance(layer, KernelLayer):
            layer.packed = {name: tuple(map(found, tensors)) for name, tensors in layer.packed.items()}
            layer.version += 1


def _power_of_two(number: int) -> int:
    """The least that is not below it."""
    return 1 << (number - 1).bit_length()
