"""KV cache: keep the keys and values of earlier tokens instead of computing them again.

Idea: attention of a new token needs the keys and values of all tokens before it, and those never change. Stored, a step
computes one token; without, it computes the whole text so far again. Decoding turns from quadratic to linear in the
text, and from compute-bound to bound by reading weights.
Price: 2 · layers · KV heads · head width · bytes for every token of every running request; int8 halves that against
16 bits, for one scale a token and head and some rounding.
Memory is given in blocks of some tokens, wherever they are free (paged), so that requests of any length share it
without gaps; batching starts as many requests as the budget holds.
No gain: for a single new token (all prefill), or where memory runs out first.
Reference: Pope et al. 2022, Efficiently Scaling Transformer Inference; Kwon et al. 2023, PagedAttention; Hooper et al.
2024, KVQuant (rounded caches).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    import torch

    from labkit.engine.cache import KVCache
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost
    from labkit.model.config import ModelConfig

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0}
SCALE_BYTES = 4  # of a token and head, where they are integers


@dataclass(frozen=True)
class KvCache(Optimization):
    """Store keys and values of earlier tokens, so that a step computes only the new one."""

    name: ClassVar[str] = "kv_cache"
    title: ClassVar[str] = "KV cache"
    slot: ClassVar[Slot] = Slot.KV_STORE
    exact: ClassVar[bool] = True

    dtype: str = knob("auto", "dtype of stored keys and values; auto: that of the activations",
                      choices=("auto", *BYTES))  # fmt: skip
    block_size: int = knob(64, "tokens in a block, the unit in which memory is given to requests", low=1, high=4096)
    budget_bytes: int = knob(2**36, "memory that running requests may take, in bytes", low=1, high=2**40)

    @property
    def is_exact(self) -> bool:
        """Fewer bits than the reference's 32 round what is stored."""
        return self.dtype in ("auto", "fp32")

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine a cache."""
        return replace(config, cache=self._make)

    def _make(self, config: "ModelConfig", compute_dtype: "torch.dtype", device: str) -> "KVCache":
        from labkit.engine.cache import KVCache
        from labkit.model.dtypes import DTYPES

        dtype = compute_dtype if self.dtype == "auto" else DTYPES[self.dtype]
        return KVCache(
            config,
            dtype=dtype,
            compute_dtype=compute_dtype,
            device=device,
            block_size=self.block_size,
            budget_bytes=self.budget_bytes,
        )

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """One token a step instead of all, and the stored ones to read."""
        kv_bytes = cost.activation_bytes if self.dtype == "auto" else BYTES[self.dtype]
        if self.dtype == "int8":
            kv_bytes += SCALE_BYTES / cost.config.head_dim
        return replace(
            cost, is_cached=True, kv_bytes=kv_bytes, block_size=self.block_size, kv_budget_bytes=self.budget_bytes
        )
