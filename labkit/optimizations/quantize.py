"""Quantization: weights as 8- or 4-bit integers, multiplied in 16 bits.

Idea: decoding reads every weight for every step; a quarter of the bytes can be a quarter of the time. 8 bits take one
scale for each output row; 4 bits need one scale and offset for each group of weights, chosen so that the squared
error is least. Activations, norms and the embedding go to bf16, which the kernels take; `precision` may choose
another dtype for them.
Price: rounding. 8 bits are close to lossless; 4 bits cost some perplexity, more for small groups saved, less for
large models.
No gain: when arithmetic is the bound (long prompts, large batches), when the weights already fit in the cache, or
when the kernel unpacks to floats first and reads more than it saves.
Reference: Dettmers et al. 2022, LLM.int8(); Frantar et al. 2022, GPTQ (the grouping); aten's _weight_int8pack_mm.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Context, Optimization, Slot, knob

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.engine.cost import DecoderCost
    from labkit.model.linear import Linear, QuantizedLinear
    from labkit.model.transformer import Transformer

SHRINKS = tuple(1 - step / 32 for step in range(13))
"""Shares of a group's range that are tried as its quantized range."""


@dataclass(frozen=True)
class Quantize(Optimization):
    """Store the weights of every linear layer and of the output head as integers, by rounding to nearest."""

    name: ClassVar[str] = "quantize"
    title: ClassVar[str] = "Quantization"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False

    bits: int = knob(8, "bits a weight", choices=(8, 4))
    group_size: int = knob(32, "weights that share a scale (4 bits only)", choices=(32, 64, 128))

    def transform(self, model: "Transformer", ctx: Context) -> "Transformer":
        """Replace layer by layer; a tied head becomes a quantized matrix of its own beside the embedding."""
        import torch

        from labkit.model.linear import Linear

        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Linear):
                    setattr(parent, name, self._quantize(child))
        if model.config.is_tied:
            embedding = model.embed_tokens.weight
            head = Linear(embedding.shape[1], embedding.shape[0], dtype=embedding.dtype)
            head.weight = torch.nn.Parameter(embedding, requires_grad=False)
            model.add_module("lm_head", self._quantize(head))
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        return model

    def _quantize(self, linear: "Linear") -> "QuantizedLinear":
        from labkit.model.linear import QuantizedLinear

        weight = linear.weight.detach().float()
        if self.bits == 8:
            codes, scales = round_rows(weight)
            return QuantizedLinear(codes, scales, None, bits=8, bias=linear.bias)
        group = self.group_size if weight.shape[1] % self.group_size == 0 else weight.shape[1]
        codes, scales, zeros = round_groups(weight, group)
        return QuantizedLinear(codes, scales, zeros, bits=4, bias=linear.bias)

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Bytes a weight with its share of scales; arithmetic stays in the activations' 16 bits."""
        size = 1 + 2 / cost.config.hidden_size if self.bits == 8 else 0.5 + 4 / self.group_size
        return replace(
            cost, linear_bytes=size, head_bytes=size, activation_bytes=2.0, dtype="bf16", dtype_is_fixed=True
        )


def round_rows(weight: "Tensor") -> "tuple[Tensor, Tensor]":
    """Symmetric rounding to 8 bits, one scale a row.

    Args:
        weight: fp32 [out, in].

    Returns:
        codes int8 [out, in] in -127 … 127; scales bf16 [out]. The scale is rounded first, so codes make up for it.
    """
    import torch

    scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-30).bfloat16()
    codes = (weight / scales.float()[:, None]).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def round_groups(weight: "Tensor", group_size: int) -> "tuple[Tensor, Tensor, Tensor]":
    """Asymmetric rounding to 4 bits, one scale and zero for each group of a row, of least squared error.

    For each group the range is shrunk in small steps and the best is kept: clipping the largest weights can cost less
    than the coarser grid that they would force on all others.

    Args:
        weight: fp32 [out, in], `in` a multiple of `group_size`.

    Returns:
        codes uint8 [out, in] in 0 … 15; scales and zeros bf16 [out, in / group]; weight ≈ (codes - 8) · scale + zero.
    """
    import torch

    groups = weight.view(len(weight), -1, group_size)
    high, low = groups.amax(-1, keepdim=True), groups.amin(-1, keepdim=True)
    best_error = torch.full_like(high, torch.inf)
    codes, scales, zeros = torch.zeros_like(groups), torch.ones_like(high), torch.zeros_like(high)
    for shrink in SHRINKS:
        scale = ((high - low) * shrink / 15).clamp(min=1e-30).bfloat16().float()
        zero = ((high + low) / 2 + scale / 2).bfloat16().float()  # the middle of the grid -8 … 7 lies at -1/2
        code = ((groups - zero) / scale).round().clamp(-8, 7)
        error = (code * scale + zero - groups).square().sum(-1, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        codes, scales = torch.where(is_better, code, codes), torch.where(is_better, scale, scales)
        zeros = torch.where(is_better, zero, zeros)
    return (codes + 8).to(torch.uint8).flatten(1), scales.squeeze(-1).bfloat16(), zeros.squeeze(-1).bfloat16()
