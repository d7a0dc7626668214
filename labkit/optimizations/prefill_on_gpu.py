"""Prefill on the GPU: prompts are computed there, their keys and values copied, and decoding stays on the CPU.

Idea: the two phases want different machines. A prompt is arithmetic, thousands of tokens share each weight, and a GPU
does a hundred times as much of it a second. A decoding step is memory traffic for one token, which a CPU does nearer to
what its price promises. So each does its part, and only keys and values cross the link, once for each request.
Price: the weights are held twice, once in each memory; 2 · layers · KV heads · head width numbers for every token of a
prompt cross the link before the first decoding step.
No gain: for short prompts, whose prefill the CPU has done by the time the GPU has answered; where the GPU has the
memory for decoding, too, since it is faster at both.
Reference: Patel et al. 2024, Splitwise, and Zhong et al. 2024, DistServe (prefill and decode on different machines).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import CUDA, Need, Optimization, Slot

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost


@dataclass(frozen=True)
class PrefillOnGpu(Optimization):
    """Compute prompts on the GPU and everything after them on the CPU."""

    name: ClassVar[str] = "prefill_on_gpu"
    title: ClassVar[str] = "Prefill on the GPU"
    slot: ClassVar[Slot] = Slot.EXECUTOR
    exact: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (CUDA,)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    requires: ClassVar[tuple[str, ...]] = ("kv_cache",)
    conflicts: ClassVar[Mapping[str, str]] = {
        "continuous_batching": "it computes prompts in chunks beside decoding, in one step on one device"
    }

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine a second model, and the executor that knows both."""
        from labkit.engine.far_prefill import FarPrefill

        mechanism = FarPrefill(device="cuda")
        return replace(config, finish=mechanism.finish, executor=mechanism.executor)

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Another device's prefill, and keys and values that cross the link."""
        return replace(cost, prefill_device="cuda")
