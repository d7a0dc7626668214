"""RNN cell: what the network remembers with.

Idea: a plain cell mixes its state anew at every word and forgets within a dozen of them. Gates decide what is kept: a
GRU has three products a step, an LSTM four.
Price: so many times the weights and the work of a step.
No gain: in speed, ever; in accuracy, on texts of a few words. Where single words tell the topic, a regression on TF-IDF
beats all three.
Reference: Hochreiter and Schmidhuber 1997 (LSTM); Cho et al. 2014 (GRU).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.classifier import ClassifierSettings


@dataclass(frozen=True)
class RnnCell(Optimization):
    """Train and use this cell (default of every Recipe without it: simple)."""

    name: ClassVar[str] = "rnn_cell"
    title: ClassVar[str] = "RNN cell"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False
    systems: ClassVar[tuple[str, ...]] = ("classifier",)

    kind: str = knob("gru", "the cell", choices=("simple", "gru", "lstm"))

    def settle(self, settings: "ClassifierSettings") -> "ClassifierSettings":
        """Train with the cell."""
        from labkit.text.rnn_trained import Training

        return replace(settings, training=Training.of(self.kind))
