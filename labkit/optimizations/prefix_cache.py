"""Prefix cache: prompts that begin alike share the keys and values of that beginning.

Idea: requests of one service often begin with the same text: instructions, examples, a document that all of them ask
about. Under causal attention its keys and values depend on nothing that follows, so they are computed once, kept in
blocks after the request is done, and copied for the next prompt that begins so; only the rest of it is computed. Time
to first token falls from that of the whole prompt to that of its own part.
Price: memory up to the budget, and a copy of each reused block; tokens are reused in whole blocks, and the last token
of a prompt is always computed, for its logits.
No gain: for prompts that share nothing (the measured ones of every workload without `shared_prefix_tokens`), for the
first request of all, for decoding, and where more beginnings take turns than the budget holds.
Reference: Kwon et al. 2023, Efficient Memory Management for LLM Serving with PagedAttention (vLLM hashes blocks behind
their parents, as here); Zheng et al. 2024, SGLang (RadixAttention); Gim et al. 2024, Prompt Cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from pathlib import Path

    from labkit.engine import prefix
    from labkit.engine.cache import KVCache
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost


@dataclass(frozen=True)
class PrefixCache(Optimization):
    """Keep keys and values of prompts, and compute of a new prompt only what comes after a known beginning."""

    name: ClassVar[str] = "prefix_cache"
    title: ClassVar[str] = "Prefix cache"
    slot: ClassVar[Slot] = Slot.CACHE_EXTRA
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("kv_cache",)

    budget_bytes: int = knob(2**28, "memory that kept keys and values may take, in bytes", low=2**20, high=2**40)

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine's cache a memory of prompts."""
        return replace(config, prefixes=self._make)

    def _make(self, cache: "KVCache", origin: Mapping[str, str], folder: "Path | None") -> "prefix.PrefixCache":
        from labkit.engine import prefix

        return prefix.PrefixCache(cache, budget_bytes=self.budget_bytes, origin=origin, folder=folder)

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Prefill without the whole blocks of the shared prefix, as many as the budget holds, but with their copy."""
        num_kept = self.budget_bytes // int(cost.kv_token_bytes * cost.block_size)
        num_shared = cost.spec.shared_prefix_tokens // cost.block_size
        cached_prompt_tokens = min(num_kept, num_shared) * cost.block_size
        return replace(cost, cached_prompt_tokens=cached_prompt_tokens, prefix_bytes=self.budget_bytes)
