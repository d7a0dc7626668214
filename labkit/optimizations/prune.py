"""Pruning: leave out what matters least, so that there is less to read and to multiply.

Idea: trained networks hold more than they need. Whole query heads and neurons ("channel") or whole blocks ("layer") can
go: what stays is a smaller model of plain matrices, faster on every machine by about what is gone. Single weights
("unstructured", "2:4") can go in larger shares at the same quality. What matters is told by a weight's size, or better
by its size times that of the activations it meets, watched on calibration text. A short training against the whole
model (`recover_steps`) wins most of the loss back.
Price: quality, more for whole heads and blocks than for single weights; minutes of training where it is asked for.
No gain: zeros save nothing by themselves, since a dense kernel multiplies by them too. Compressed rows need 4 bytes of
index beside each value: in fp32 they read less only where more than half of the weights are gone, and the machine only
takes them where they are measured to win; in 16 bits, or quantized, the cost model expects no speed-up. The pattern
2:4 is for tensor cores of NVIDIA (Ampere and later), in 16 bits.
Reference: Sun et al. 2023, Wanda; Men et al. 2024, ShortGPT; Xia et al. 2023, Sheared LLaMA (structured pruning);
Hinton et al. 2015, Distilling the Knowledge in a Neural Network; Mishra et al. 2021, Accelerating Sparse Deep Neural
Networks (2:4).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.core.errors import UsageError
from labkit.optimizations.base import Context, Optimization, Slot, knob

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.engine.cost import DecoderCost
    from labkit.model.transformer import Transformer

_WATCHED_SEQUENCES = 32
_RECOVERY_COPIES = 6.0  # of fp32 weights: whole, pruned, trained, gradients and their two moments


@dataclass(frozen=True)
class Prune(Optimization):
    """Remove heads and neurons, whole blocks, or single weights, by what each adds to the output."""

    name: ClassVar[str] = "prune"
    title: ClassVar[str] = "Pruning"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False

    sparsity: float = knob(0.3, "share that goes", low=0.0, high=0.99)
    pattern: str = knob("channel", "what goes: heads and neurons, whole blocks, single weights, or two of each four",
                        choices=("channel", "layer", "unstructured", "2:4"))  # fmt: skip
    score: str = knob("activation", "what matters: weights times their activations, or weights alone",
                      choices=("activation", "magnitude"))  # fmt: skip
    recover_steps: int = knob(0, "steps of training against the whole model afterwards", low=0, high=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern == "2:4" and self.sparsity != 0.5:
            raise UsageError(
                f"prune(sparsity={self.sparsity}, pattern='2:4') was asked for; 2:4 keeps two of four weights; "
                "allowed: sparsity=0.5"
            )

    def transform(self, model: "Transformer", ctx: Context) -> "Transformer":
        """Prune layer by layer, then train where that is asked for."""
        from labkit.compression.pruning import prune
        from labkit.compression.recovery import BATCH, recover, twin

        if self.sparsity == 0:
            return model
        whole = twin(model) if self.recover_steps else None
        prune(model, sparsity=self.sparsity, pattern=self.pattern, statistics=self._statistics(model, ctx))
        if whole is not None:

            def taught() -> "dict[str, Tensor]":
                return recover(model, whole, ctx.calibrate(self.recover_steps * BATCH).to(ctx.device))

            for name, tensor in ctx.cached("recovered", taught).items():
                model.get_parameter(name).data = tensor
        return model

    def _statistics(self, model: "Transformer", ctx: Context) -> "dict[str, Tensor] | None":
        from labkit.compression.statistics import block_influences, input_norms

        if self.score == "magnitude":
            return None
        watch = block_influences if self.pattern == "layer" else input_norms
        return ctx.cached("activations", lambda: watch(model, ctx.calibrate(_WATCHED_SEQUENCES).to(ctx.device)))

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """The sizes that stay. Zeros change only the density, which counts where compressed rows can pay."""
        from labkit.compression.sizes import pruned_config

        copies = _RECOVERY_COPIES if self.recover_steps and self.sparsity else 1.0
        density = 1.0 - self.sparsity if self.pattern == "unstructured" else 1.0
        config = pruned_config(cost.config, self.sparsity, self.pattern)
        return replace(cost, config=config, density=density, num_build_copies=copies)
