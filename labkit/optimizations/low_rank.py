"""Low rank: each linear layer as two narrow ones in a row.

Idea: a matrix [out, in] acts mostly along a few directions, its largest singular values. Keeping r of them, it is the
product of [out, r] and [r, in]: r · (in + out) numbers instead of in · out, less to read and less to multiply. The rank
is the least that keeps the energy asked for, the share of the squared singular values; layers that would not get
smaller stay as they are.
Price: quality, and each layer becomes two operations; q, k and v, or gate and up, can no longer be joined into one.
No gain: where singular values fall off slowly, as in well-trained small models and in random weights: then a share of
the energy worth having takes a rank that saves nothing. The rank depends on the weights, so a forecast cannot know it:
until the model is built, the cost model expects what it was without.
Reference: Eckart and Young 1936; Denton et al. 2014, Exploiting Linear Structure Within Convolutional Networks.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Context, Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.cost import DecoderCost
    from labkit.model.transformer import Transformer

_BUILD_COPIES = 3.0  # of fp32 weights: the layers, their factors, and these once more while they are written


@dataclass(frozen=True)
class LowRank(Optimization):
    """Replace linear layers by two factors of lower rank, from their singular value decomposition."""

    name: ClassVar[str] = "low_rank"
    title: ClassVar[str] = "Low rank"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False

    energy: float = knob(0.9, "share of the squared singular values to keep", low=0.1, high=1.0)

    def transform(self, model: "Transformer", ctx: Context) -> "Transformer":
        """Factorize layer by layer; the decompositions are kept, they take long."""
        from labkit.compression.low_rank import all_factors, factorize

        factorize(model, ctx.cached("factors", lambda: all_factors(model, self.energy)))
        return model

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """No change that is known beforehand, but for memory while it is built; the engine counts what was built."""
        return replace(cost, num_build_copies=max(cost.num_build_copies, _BUILD_COPIES))
