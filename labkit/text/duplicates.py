"""Near-duplicates: texts that share most of their runs of three words.

Two texts whose sets of runs have a Jaccard similarity of at least t have one in common among the n - ⌈t·n⌉ + 1 rarest
of each. So only these are looked up (Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search").
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from labkit.text.words import words

RUN_WORDS = 3
NEAR_DUPLICATE = 0.6
"""Texts this similar (Jaccard, of their runs of words) count as one."""


def runs(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of `RUN_WORDS` words; of a shorter text its words as one run."""
    tokens = words(text)
    return frozenset(tuple(tokens[at : at + RUN_WORDS]) for at in range(max(len(tokens) - RUN_WORDS, 0) + 1))


def jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Shared runs over all runs of both."""
    return len(a & b) / len(a | b)


def distinct(texts: Sequence[str], *, threshold: float = NEAR_DUPLICATE) -> list[int]:
    """Positions of the texts that resemble no earlier kept one; no two of them are near-duplicates."""
    sets = [runs(text) for text in texts]
    counts = Counter(run for one in sets for run in one)
    kept: list[int] = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, one in enumerate(sets):
        rarest = sorted(one, key=lambda run: (counts[run], run))[
            : len(one) - math.ceil(threshold * len(one) - 1e-9) + 1
        ]
        rivals = {rival for run in rarest for rival in holders[run]}
        if all(jaccard(one, sets[rival]) < threshold for rival in rivals):
            kept.append(position)
            for run in rarest:
                holders[run].append(position)
    return kept
