"""Pipeline parallelism: several processes compute one after another, each with some of the layers.

Idea: a process holds a range of layers and hands its activations to the next, one small message a step where tensor
parallelism needs two all-reduces a layer. So that all compute at once, a batch is cut into microbatches: while the
second process works on the first of them, the first works on the second.
Price: the pipeline fills and drains in every step: of m microbatches through n processes each is idle (n - 1) of
(m + n - 1) parts of the time (the bubble), and every microbatch reads the weights again, for which a whole batch needed
them once. The first process waits for the logits before it can begin the next token.
No gain: for one request at a time, where one process works and the others wait; for decoding in general, which reading
weights bounds, since more microbatches mean less bubble and more reading; on the cores of one CPU, where threads
inside each operation use all cores without a bubble. It pays for models that no single device holds.
Reference: Huang et al. 2019, GPipe; Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU
Clusters Using Megatron-LM.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import knob
from labkit.optimizations.ranks import Ranks

if TYPE_CHECKING:
    from labkit.engine.cost import DecoderCost
    from labkit.model.config import ModelConfig


@dataclass(frozen=True)
class PipelineParallel(Ranks):
    """Split the layers between `num` processes, through which a batch goes in microbatches."""

    name: ClassVar[str] = "pipeline_parallel"
    title: ClassVar[str] = "Pipeline parallelism"
    way: ClassVar[str] = "pipeline"

    microbatches: int = knob(2, "parts in which a batch goes through", low=1, high=64)

    def most(self, sizes: "ModelConfig") -> tuple[int, str]:
        """See Ranks."""
        return sizes.num_layers, "layers"

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Fewer layers a process, and a pipeline to fill."""
        return replace(super().cost(cost), num_microbatches=self.microbatches)
