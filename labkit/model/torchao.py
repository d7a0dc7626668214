"""The same integers multiplied by torchao, for a reader who wonders why a library's int8 can be slower than 16 bits."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.core.errors import Unavailable
from labkit.model.linear import KernelLayer


class TorchaoLinear(KernelLayer):
    """y = x W'ᵀ + b with a weight that torchao quantized, eagerly.

    Args:
        weight: floats [out, in].
        bits: 8, one scale a row; or 4, one scale and zero a group, on CUDA only.
        activation_bits: 8 to have torchao round each row of activations too, else 16.
        group_size: weights that share a scale; 4 bits only.

    Raises:
        Unavailable: torchao has no such kernel for the device.
    """

    is_quantized = True
    library = "torchao"

    def __init__(
        self, weight: Tensor, *, bits: int, activation_bits: int, group_size: int, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        from torchao.quantization import quantize_

        self.out_features, self.in_features = weight.shape
        self.bits, self.activation_bits, self.bias = bits, activation_bits, bias
        self.device_type = weight.device.type
        config = scheme(
            bits, activation_bits, group_size, device=self.device_type, remedy="8 bits, or kernel='fastest'"
        )
        holder = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        holder.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
        quantize_(holder, config)
        self.tensor = holder.weight.data  # no parameter: it has no address that could be moved

    @property
    def num_bytes(self) -> int:  # type: ignore[override]
        """Memory that the weights take, in bytes."""
        return sum(part.nbytes for part in parts(self.tensor).values())

    def pack(self) -> None:
        """There is one kernel, torchao's, and no layout to choose."""
        self.packed = {f"torchao_{self.activation_bits}": ()}

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out], in the dtype of x."""
        y = self.multiply(x)
        return y if self.bias is None else y + self.bias

    def product(self, x: Tensor) -> Tensor:
        """x W'ᵀ in the dtype of x."""
        return F.linear(x.to(torch.bfloat16), self.tensor).to(x.dtype)


def parts(tensor: Tensor) -> Mapping[str, Tensor]:
    """The plain tensors by name that torchao made of a weight; {} for a weight that it left alone."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    return {name: getattr(tensor, name) for name in flatten()[0]} if flatten else {}


def scheme(bits: int, activation_bits: int, group_size: int, *, device: str, remedy: str) -> object:
    """What `torchao.quantization.quantize_` is told for weights and activations of so many bits, run eagerly.

    Raises:
        Unavailable: torchao has no such kernel for the device; ends with what the caller says is the `remedy`.
    """
    from torchao.quantization import (
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
    )

    if bits == 4 and (device == "cpu" or activation_bits == 8):
        raise Unavailable(
            f"torchao was asked for 4 bits with {activation_bits}-bit activations on {device}; its kernels of 4 bits "
            f"take float activations and run on cuda; remedy: {remedy}"
        )
    if bits == 4:
        return Int4WeightOnlyConfig(
            group_size=group_size, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    if activation_bits == 8:
        return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    return Int8WeightOnlyConfig(set_inductor_config=False)
