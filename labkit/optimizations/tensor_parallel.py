"""Tensor parallelism: several processes compute each layer together, each with its part of the weights.

Idea: query heads and neurons do not look at each other, so each process takes some of them, with the rows of q, k, v,
gate and up that make them and the columns of o and down that they are multiplied by; what comes out are summands, added
up by one all-reduce behind attention and one behind the feed-forward block. Weights, KV cache and arithmetic are
divided by the number of processes, and so is the time where a single device is the bound. The head is cut by
vocabulary. The embedding is not: a token reads one row of it, and another all-reduce would cost more than it saves.
Price: two all-reduces a layer and step, each of which waits for the slowest process and takes a latency that has
nothing to do with its size; every process holds the embedding, and copies of KV heads where there are too few.
No gain: on the cores of one CPU. Two processes of one core read the same memory and do the same arithmetic as two
threads of one process, which meet in less than a microsecond where an all-reduce over loopback takes some hundred; a
step of a small model is shorter than its messages. It pays between devices that have a memory and a link of their own.
Reference: Shoeybi et al. 2019, Megatron-LM; Pope et al. 2022, Efficiently Scaling Transformer Inference.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.ranks import Ranks

if TYPE_CHECKING:
    from labkit.model.config import ModelConfig


@dataclass(frozen=True)
class TensorParallel(Ranks):
    """Split every layer between `num` processes, by heads and neurons."""

    name: ClassVar[str] = "tensor_parallel"
    title: ClassVar[str] = "Tensor parallelism"
    way: ClassVar[str] = "tensor"

    def most(self, sizes: "ModelConfig") -> tuple[int, str]:
        """See Ranks."""
        return sizes.num_heads, "query heads"
