"""Quantization: weights as 8- or 4-bit integers or 8-bit floats, activations in 16 bits or as 8-bit numbers too.

Idea: decoding reads every weight for every step; a quarter of the bytes can be a quarter of the time. 8 bits take one
scale for each output row; 4 bits need one scale and offset for each group of weights, chosen so that the squared
error is least. `method="gptq"` rounds column by column and has later columns make up for the error of earlier ones on
calibration text. `activations="int8"` also rounds each row of activations as it comes, so that whole numbers are
multiplied, of which a core does two to four times as many a cycle: a gain where arithmetic is the bound. Otherwise
activations go to bf16, which the kernels take; `precision` may choose another dtype for them. `format="fp8"` rounds
weights and activations to floats of 4 bits of exponent and 3 of fraction, which tensor cores of recent GPUs multiply
as fast as integers; their steps grow with the number, so that a few large ones cost the small ones less.
Price: rounding. 8 bits are close to lossless; 4 bits cost some perplexity, more for small groups saved, less for
large models; rounded activations cost some more, most where a few of them are far larger than the rest.
No gain: when arithmetic is the bound (long prompts, large batches) and activations stay floats, when the weights
already fit in the cache, or when the kernel unpacks to floats first and reads more than it saves, as
`kernel="torchao"` does on a CPU unless it is compiled.
Reference: Dettmers et al. 2022, LLM.int8(); Frantar et al. 2022, GPTQ; Micikevicius et al. 2022, FP8 Formats for Deep
Learning; aten's _weight_int8pack_mm and _scaled_mm; torchao.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from labkit.core.errors import Unavailable, UsageError
from labkit.core.machine import compute_capability
from labkit.optimizations.base import Context, Need, Optimization, Slot, knob

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.engine.cost import DecoderCost
    from labkit.model.linear import KernelLayer, Linear
    from labkit.model.transformer import Transformer

CALIBRATION_SEQUENCES = 64
"""Sequences of training text on which errors are made up for."""

_PARTS = ("codes", "scales", "zeros")


def _missing_torchao() -> str:
    return "" if find_spec("torchao") else "torchao is not installed; remedy: pip install 'labkit[peers]'"


_FP8_DEVICES = ("cuda",)
_FP8_CAPABILITY = 8.9  # of the first GPUs whose tensor cores multiply fp8: Ada, then Hopper


def _missing_fp8() -> str:
    here = compute_capability()
    if here is not None and here >= _FP8_CAPABILITY:
        return ""
    seen = "no NVIDIA GPU is here" if here is None else f"the GPU here has {here}"
    return f"compute capability {_FP8_CAPABILITY} or higher multiplies it, {seen}; remedy: format='int'"


@dataclass(frozen=True)
class Quantize(Optimization):
    """Store the weights of every linear layer and of the output head in 8 or 4 bits."""

    name: ClassVar[str] = "quantize"
    title: ClassVar[str] = "Quantization"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False

    bits: int = knob(8, "bits a weight", choices=(8, 4))
    format: str = knob("int", "int: whole numbers; fp8: 8-bit floats (e4m3), activations too, on recent GPUs",
                       choices=("int", "fp8"))  # fmt: skip
    group_size: int = knob(32, "weights that share a scale (4 bits only)", choices=(32, 64, 128))
    method: str = knob("round", "round: each weight to the nearest; gptq: make up for errors on calibration text",
                       choices=("round", "gptq"))  # fmt: skip
    activations: str = knob("float", "float: multiply in 16 bits; int8: round activations too, row by row",
                            choices=("float", "int8"))  # fmt: skip
    kernel: str = knob("fastest", "fastest: what a probe finds; torchao: the same scheme by torchao",
                       choices=("fastest", "torchao"))  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel == "torchao" and self.method != "round":
            raise UsageError(
                f"quantize: method {self.method!r} was asked for with kernel 'torchao', which rounds by itself; "
                "allowed: method 'round', or kernel 'fastest'"
            )
        others = [
            f"{spec.name}={value!r}"
            for spec in fields(self)
            if spec.name not in ("format", "group_size") and (value := getattr(self, spec.name)) != spec.default
        ]
        if self.format == "fp8" and others:
            raise UsageError(
                f"quantize: format 'fp8' was asked for with {', '.join(others)}; it rounds weights and activations to "
                "the nearest in 8 bits and has a kernel of its own; leave those knobs out"
            )

    @property
    def required(self) -> tuple[Need, ...]:
        """torchao, where its kernels are asked for, and a GPU that multiplies fp8, where that is."""
        if self.format == "fp8":
            return (Need("fp8 arithmetic", _missing_fp8),)
        return (Need("torchao", _missing_torchao),) if self.kernel == "torchao" else ()

    def transform(self, model: "Transformer", ctx: Context) -> "Transformer":
        """Replace layer by layer; a tied head becomes a quantized matrix of its own beside the embedding."""
        import torch

        from labkit.model.linear import Linear

        if self.format == "fp8" and not ctx.device.startswith(_FP8_DEVICES):
            raise Unavailable(
                f"quantize: format 'fp8' was asked for on {ctx.device}; allowed: cuda; remedy: format='int'"
            )
        rounded = ctx.cached("gptq", lambda: self._compensate(model, ctx)) if self.method == "gptq" else {}
        for path, parent in list(model.named_modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Linear):
                    setattr(parent, name, self._replaced(child, f"{path}.{name}", rounded))
        if model.config.is_tied:
            embedding = model.embed_tokens.weight
            head = Linear(embedding.shape[1], embedding.shape[0], dtype=embedding.dtype)
            head.weight = torch.nn.Parameter(embedding, requires_grad=False)
            model.add_module("lm_head", self._replaced(head, "lm_head", rounded))
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        return model

    def _compensate(self, model: "Transformer", ctx: Context) -> "dict[str, Tensor]":
        """Codes, scales and zeros of the blocks' layers by name; the head, as in the paper, is left to rounding."""
        from labkit.compression.gptq import compensated_groups, compensated_rows
        from labkit.compression.moments import change_in_order
        from labkit.model.linear import QuantizedLinear

        found: dict[str, Tensor] = {}

        def change(name: str, layer: "Linear", moments: "Tensor") -> None:
            weight = layer.weight.detach().float()
            if self.bits == 8:
                codes, scales, zeros = *compensated_rows(weight, moments), None
            else:
                codes, scales, zeros = compensated_groups(weight, moments, self._group_size(layer))
            parts = zip(_PARTS, (codes, scales, zeros), strict=True)
            found.update({f"{name}.{part}": tensor for part, tensor in parts if tensor is not None})
            rounded = QuantizedLinear(codes, scales, zeros, bits=self.bits).dequantized()
            layer.weight.data = rounded.to(layer.weight.dtype)

        change_in_order(model, ctx.calibrate(CALIBRATION_SEQUENCES).to(ctx.device), change)
        return found

    def _replaced(self, linear: "Linear", name: str, rounded: "Mapping[str, Tensor]") -> "KernelLayer":
        from labkit.compression.rounding import round_groups, round_rows
        from labkit.model.linear import QuantizedLinear

        activation_bits = 8 if self.activations == "int8" else 16
        weight = linear.weight.detach().float()
        if self.kernel == "torchao":
            from labkit.model.torchao import TorchaoLinear

            return TorchaoLinear(
                weight, bits=self.bits, activation_bits=activation_bits, group_size=self.group_size, bias=linear.bias
            )
        if self.format == "fp8":
            return self._float8(linear, weight)
        if f"{name}.codes" in rounded:
            codes, scales, zeros = (rounded.get(f"{name}.{part}") for part in _PARTS)
            assert codes is not None
            assert scales is not None
        elif self.bits == 8:
            (codes, scales), zeros = round_rows(weight), None
        else:
            codes, scales, zeros = round_groups(weight, self._group_size(linear))
        return QuantizedLinear(codes, scales, zeros, bits=self.bits, activation_bits=activation_bits, bias=linear.bias)

    def _float8(self, linear: "Linear", weight: "Tensor") -> "KernelLayer":
        from labkit.model.kernels import round_to_float8
        from labkit.model.linear import QuantizedLinear

        codes, scales = round_to_float8(weight)
        return QuantizedLinear(codes, scales.squeeze(1), None, bits=8, activation_bits=8, bias=linear.bias)

    def _group_size(self, linear: "Linear") -> int:
        return self.group_size if linear.in_features % self.group_size == 0 else linear.in_features

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Bytes a weight with its share of scales; arithmetic in the activations' 16 bits or in 8."""
        if self.format == "fp8":
            size, dtype = 1 + 4 / cost.config.hidden_size, "fp8"
        else:
            size = 1 + 2 / cost.config.hidden_size if self.bits == 8 else 0.5 + 4 / self.group_size
            dtype = "int8" if self.activations == "int8" else "bf16"
        return replace(cost, linear_bytes=size, head_bytes=size, activation_bytes=2.0, dtype=dtype, dtype_is_fixed=True)
