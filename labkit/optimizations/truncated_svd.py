"""Truncated SVD: a text as the few numbers in which texts differ most, in place of a weight for every term.

Idea: the matrix of texts and terms is close to one of low rank. Its first singular vectors give each text `rank`
numbers; cosines of these are nearly those of whole rows, and texts that say the same in other words come closer.
Price: fitting the factors; vectors are dense, so at a small corpus the scan can cost more than sparse rows did; what
the cut loses shows in recall.
No gain: where queries share rare words with what they look for. There plain TF-IDF is hard to beat, in recall by
definition.
Reference: Deerwester et al. 1990, LSA; Halko, Martinsson and Tropp 2011, for the randomized method.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.similarity import Settings


@dataclass(frozen=True)
class TruncatedSvd(Optimization):
    """Shorten TF-IDF vectors to `rank` numbers, by a randomized, an iterative or the full decomposition."""

    name: ClassVar[str] = "truncated_svd"
    title: ClassVar[str] = "Truncated SVD"
    slot: ClassVar[Slot] = Slot.WEIGHTS
    exact: ClassVar[bool] = False
    systems: ClassVar[tuple[str, ...]] = ("similarity",)

    rank: int = knob(128, "numbers that a text becomes", low=1, high=4096)
    algorithm: str = knob("randomized", "how the factors are found", choices=("randomized", "lanczos", "full"))

    def settle(self, settings: "Settings") -> "Settings":
        """Set rank and algorithm."""
        return replace(settings, rank=self.rank, algorithm=self.algorithm)
