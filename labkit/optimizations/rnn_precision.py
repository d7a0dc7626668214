"""RNN precision: the table of words in 16 or 8 bits.

Idea: nearly all of the weights are the table that words are looked up in; each text reads one row a word. Rows of bf16,
or of int8 with a scale each, take half and a quarter of the memory, and caches hold more of them.
Price: every row is rounded; the recurrent weights, which every step multiplies by, stay fp32.
No gain: in time where the table fits in a cache anyway. Keras keeps its own dtypes.
Reference: Guan et al. 2019, Post-training 4-bit quantization on embedding tables.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.classifier import ClassifierSettings


@dataclass(frozen=True)
class RnnPrecision(Optimization):
    """Hold the table of words in this dtype (default of every Recipe without it: fp32)."""

    name: ClassVar[str] = "rnn_precision"
    title: ClassVar[str] = "RNN precision"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False
    systems: ClassVar[tuple[str, ...]] = ("classifier",)
    requires: ClassVar[tuple[str, ...]] = ("rnn_runtime",)

    dtype: str = knob("int8", "what each number of the table is held in", choices=("bf16", "int8"))

    def settle(self, settings: "ClassifierSettings") -> "ClassifierSettings":
        """Set the dtype."""
        return replace(settings, precision=self.dtype)
