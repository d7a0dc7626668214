"""Precision: weights and activations in 16 bits instead of 32.

Idea: decoding reads every weight for every step, so half the bytes is half the time where memory is the bound; where
arithmetic is the bound, 16-bit instructions do two to four times the work.
Price: bf16 keeps the range of fp32 and 8 bits of mantissa, fp16 11 bits and a range that ends at 65,504.
No gain: on a processor that only emulates the dtype (no AVX-512 BF16 or AMX, no tensor cores); fp16 on such a CPU is
fast at batch 1 only.
Reference: Micikevicius et al. 2018, Mixed Precision Training; Kalamkar et al. 2019, A Study of BFLOAT16.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Context, Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.cost import DecoderCost
    from labkit.model.transformer import Transformer


@dataclass(frozen=True)
class Precision(Optimization):
    """Run weights and activations that are not quantized in this dtype."""

    name: ClassVar[str] = "precision"
    title: ClassVar[str] = "Precision"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False

    dtype: str = knob("bf16", "dtype of weights and activations", choices=("fp32", "bf16", "fp16"))

    def transform(self, model: "Transformer", ctx: Context) -> "Transformer":
        """Convert parameter by parameter."""
        from labkit.model.dtypes import DTYPES

        dtype = DTYPES[self.dtype]
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        return model

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Bytes a weight, and the dtype that arithmetic runs in; quantized layers keep theirs."""
        size = 4.0 if self.dtype == "fp32" else 2.0
        if cost.dtype_is_fixed:
            return replace(cost, activation_bytes=size)
        return replace(cost, linear_bytes=size, head_bytes=size, activation_bytes=size, dtype=self.dtype)
