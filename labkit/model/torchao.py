"""The same integers multiplied by torchao, for a reader who wonders why a library's int8 can be slower than 16 bits."""

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
        if bits == 4 and (self.device_type == "cpu" or activation_bits == 8):
            raise Unavailable(
                f"torchao was asked for 4 bits with {activation_bits}-bit activations on {self.device_type}; "
                "allowed: 8 bits, or 4 bits with float activations on cuda; remedy: kernel='fastest'"
            )
        holder = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        holder.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
        quantize_(holder, _config(bits, activation_bits, group_size))
        self.tensor = holder.weight.data  # no parameter: it has no address that could be moved

    @property
    def num_bytes(self) -> int:  # type: ignore[override]
        """Memory that the weights take, in bytes."""
        names, _ = self.tensor.__tensor_flatten__()  # type: ignore[attr-defined]
        return sum(getattr(self.tensor, name).nbytes for name in names)

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


def _config(bits: int, activation_bits: int, group_size: int) -> object:
    from torchao.quantization import (
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
    )

    if bits == 4:
        return Int4WeightOnlyConfig(
            group_size=group_size, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    if activation_bits == 8:
        return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    return Int8WeightOnlyConfig(set_inductor_config=False)
