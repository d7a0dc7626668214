"""RNN batching: several texts share each step.

Idea: a step reads the recurrent weights and dispatches some operations, however many texts take it together.
Price: a text waits for those that it is answered with, and all take as many steps as the longest.
No gain: when texts come one at a time.
Reference: Gao et al. 2018, Low latency RNN inference with cellular batching.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.classifier import ClassifierSettings


@dataclass(frozen=True)
class RnnBatching(Optimization):
    """Answer up to `size` of the texts that wait together."""

    name: ClassVar[str] = "rnn_batching"
    title: ClassVar[str] = "RNN batching"
    slot: ClassVar[Slot] = Slot.SCHEDULER
    exact: ClassVar[bool] = True
    systems: ClassVar[tuple[str, ...]] = ("classifier",)

    size: int = knob(64, "texts answered together", low=1, high=4096)

    def settle(self, settings: "ClassifierSettings") -> "ClassifierSettings":
        """Set the number."""
        return replace(settings, batch_size=self.size)
