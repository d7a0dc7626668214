"""RNN pruning: a narrower state.

Idea: drop the units whose outgoing weights are smallest; rows and columns go with them, so every product shrinks and no
kernel has to know of zeros.
Price: what these units remembered is lost, and nothing is trained afterwards: look at the accuracy.
No gain: for Keras, which spends its time on dispatch, whatever the width; below a width that fills the processor's
vectors.
Reference: Li et al. 2017, Pruning filters for efficient ConvNets (structured pruning by norm).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.classifier import ClassifierSettings


@dataclass(frozen=True)
class RnnPrune(Optimization):
    """Keep this many units of the state."""

    name: ClassVar[str] = "rnn_prune"
    title: ClassVar[str] = "RNN pruning"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False
    systems: ClassVar[tuple[str, ...]] = ("classifier",)

    units: int = knob(48, "units that are kept, of 64", low=1, high=64)

    def settle(self, settings: "ClassifierSettings") -> "ClassifierSettings":
        """Set the number."""
        return replace(settings, units=self.units)
