"""Continuous batching: the batch is put together anew for each step.

Idea: a request joins the running ones as soon as there is a place and leaves with its last token, so nobody waits for
a batch to fill or for its slowest member, and no place stays idle while requests wait. Prompts are computed in chunks
of a limited number of tokens, in the same step as the tokens of those that decode: weights are read once for all, and
nobody's next token waits for the whole of another's prompt. Nothing is padded. Memory for keys and values is given in
blocks as requests grow; where it runs out, the newest request gives its blocks back and is computed again later.
Price: each token takes a little longer while prompts are computed beside it, the more so the larger the chunk; a
preempted request is computed twice; scheduling at every step.
No gain: with one request at a time; offline with equal lengths, where a static batch of all is as full. Small chunks
read weights more often; large ones make others wait.
Reference: Yu et al. 2022, Orca; Kwon et al. 2023, PagedAttention (vLLM); Agrawal et al. 2024, Sarathi-Serve.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.cache import KVCache
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost
    from labkit.engine.scheduler import Scheduler
    from labkit.model.transformer import Transformer


@dataclass(frozen=True)
class ContinuousBatching(Optimization):
    """Admit and retire requests at every step; compute prompts in chunks beside the tokens of others."""

    name: ClassVar[str] = "continuous_batching"
    title: ClassVar[str] = "Continuous batching"
    slot: ClassVar[Slot] = Slot.SCHEDULER
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("kv_cache",)

    max_batch: int = knob(16, "requests that run at the same time", low=1, high=1024)
    prefill_budget: int = knob(128, "prompt tokens computed in a step, over all requests", low=1, high=65536)

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine the scheduler, and choose the kernels of every size of step before the first request."""
        return replace(config, scheduler=self._make, warm=(*config.warm, self._choose_kernels))

    def _choose_kernels(self, model: "Transformer") -> None:
        from labkit.model.linear import choose_ahead

        choose_ahead(model, most_rows=self.max_batch + self.prefill_budget, dtype=model.dtype)

    def _make(self, cache: "KVCache | None") -> "Scheduler":
        from labkit.engine.continuous import ContinuousBatch

        assert cache is not None  # kv_cache is required
        return ContinuousBatch(self.max_batch, self.prefill_budget, cache)

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """One step serves all that run; prompts are computed in chunks."""
        return replace(cost, batch=self.max_batch, prefill_chunk=self.prefill_budget)
