"""Folded embedding: one table instead of a look-up and a product.

Idea: the first thing done to the embedding of a word is the product with the input weights, which depends on nothing
but the word. So it is done once for every word of the vocabulary, and a text looks its results up.
Price: the table is as wide as all gates: as large as the embedding for a plain cell, three and four times for GRU and
LSTM.
No gain: where dispatch takes the time, as in Keras, which computes its layers as they are; for a vocabulary of which
little is ever read.
Reference: constant folding; embeddings are a product with one-hot rows, and products are associative.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot

if TYPE_CHECKING:
    from labkit.text.classifier import ClassifierSettings


@dataclass(frozen=True)
class FoldEmbedding(Optimization):
    """Look up what each word adds to the gates."""

    name: ClassVar[str] = "fold_embedding"
    title: ClassVar[str] = "Folded embedding"
    slot: ClassVar[Slot] = Slot.RUNTIME
    exact: ClassVar[bool] = True
    systems: ClassVar[tuple[str, ...]] = ("classifier",)
    requires: ClassVar[tuple[str, ...]] = ("rnn_runtime",)

    def settle(self, settings: "ClassifierSettings") -> "ClassifierSettings":
        """Set it."""
        return replace(settings, is_folded=True)
