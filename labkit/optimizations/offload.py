"""Offload: compute on a GPU whose memory holds only some of the layers, and fetch the others as they are needed.

Idea: a model that does not fit can still be computed where arithmetic and memory are fast. Layers that stay in the
CPU's memory lie there pinned; a second stream copies the next one into one of two buffers while the GPU computes, so
the copy costs time only where it takes longer than what is computed meanwhile. Those that are fetched are spread evenly
between those that stay. Each Run says which number of layers on the GPU should be best there.
Price: the link is ten to a hundred times slower than the GPU's own memory, and a step of few tokens takes as long as it
takes to bring what is missing; pinned memory is taken from everyone on the machine; two buffers on the GPU.
No gain: for a model that fits. Where few tokens are computed in a step and the CPU reads its memory faster than the
link brings it, computing the layers there, as llama.cpp does, is faster.
Reference: Sheng et al. 2023, FlexGen; Aminabadi et al. 2022, DeepSpeed Inference (ZeRO-Inference); CUDA's programming
guide on streams and pinned memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import CUDA, Need, Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost


@dataclass(frozen=True)
class Offload(Optimization):
    """Keep `gpu_layers` layers on the GPU and fetch the weights of the others in every step."""

    name: ClassVar[str] = "offload"
    title: ClassVar[str] = "Offload"
    slot: ClassVar[Slot] = Slot.EXECUTOR
    exact: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (CUDA,)
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    loads_on: ClassVar[str] = "cpu"
    conflicts: ClassVar[Mapping[str, str]] = {
        "replicas": "replicas divide the cores of the CPU among them, and here the GPU computes"
    }

    gpu_layers: int = knob(0, "layers whose weights stay on the GPU; at most all of the model's", low=0, high=1024)

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Have the finished layers placed."""
        from labkit.engine import offload

        mechanism = offload.Offload(self.gpu_layers, device="cuda")
        return replace(config, finish=mechanism.finish, facts=mechanism.facts)

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """The weights of fetched layers cross the link in every step, and the GPU does not hold them."""
        return replace(cost, num_fetched_layers=max(0, cost.config.num_layers - self.gpu_layers), num_build_copies=0.0)
