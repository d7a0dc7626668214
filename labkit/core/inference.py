"""What two samples can say of each other: exact tests and intervals for rates measured in paired blocks.

A block measures every recipe once, in random order. Where two recipes are equally fast, their two rates of
a block could as well have been swapped, so the sign of each log ratio is a fair coin: whatever the noise
(drift, clock steps, heavy tails), the sign-flip test errs no more often than it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from labkit.core.stats import Estimate, FloatArray

MIN_BLOCKS = 8
_MAX_EXACT_BLOCKS = 16
_NUM_PATTERNS = 2**14


def sign_flip_test(log_ratios: npt.ArrayLike, *, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that paired log ratios `[n]` are centred on 0.

    Exact over all 2^n sign patterns up to 16 blocks; beyond, 16,384 patterns, the observed one and seeded
    random ones, so that p is never below 6.1e-5. Raises ValueError for an empty or non-finite input. Source:
    Fisher, The Design of Experiments (1935), section 21; the observed pattern among the random ones, Phipson
    and Smyth, Permutation P-values Should Never Be Zero (2010).
    """
    ratios = _as_log_ratios(log_ratios)
    signs = _sign_patterns(ratios.size, seed)
    observed = abs(ratios.sum())
    rounding = 1e-12 * np.abs(ratios).sum()
    return float(np.mean(np.abs(signs @ ratios) >= observed - rounding))


def sign_flip_interval(log_ratios: npt.ArrayLike, *, level: float = 0.99, seed: int = 0) -> Estimate:
    """Mean of paired log ratios `[n]` with the values that the sign-flip test does not reject.

    The ends are order statistics of the means of all (beyond 16 blocks: random) subsets of the blocks, so
    coverage is exact for symmetric noise of any tail, where a t interval is not. n blocks cannot resolve more
    than 1 - 2 / 2^n: below 8 blocks the estimate states that lower `level` instead of the one asked for.
    Raises ValueError as `sign_flip_test` does. Source: Hartigan, Using Subsample Values as Typical Values
    (1969).
    """
    ratios = _as_log_ratios(log_ratios)
    signs = _sign_patterns(ratios.size, seed)
    signed_sums, signed_counts = signs @ ratios, signs @ np.ones(ratios.size)
    # A pattern splits the blocks in two subsets: those that it keeps and those that it flips.
    sums = np.concatenate([ratios.sum() + signed_sums, ratios.sum() - signed_sums])
    counts = np.concatenate([ratios.size + signed_counts, ratios.size - signed_counts])
    means = sums[counts > 0] / counts[counts > 0]
    rank = max(1, math.floor((1 - level) / 2 * (means.size + 1)))
    means.partition((rank - 1, means.size - rank))
    return Estimate(
        value=float(ratios.mean()),
        low=float(means[rank - 1]),
        high=float(means[means.size - rank]),
        level=min(level, 1 - 2 / 2**ratios.size),
        num_samples=ratios.size,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that one false alarm in the whole family is as rare as `alpha` says.

    In the order given. Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def aa_noise(rates: npt.ArrayLike) -> float:
    """Log ratio that a recipe would rarely exceed against itself, from its own rates `[n]` in n blocks.

    Two standard errors of the mean log ratio between passes in successive blocks. Successive differences
    hold what changes from one block to the next and little of a slow drift, which interleaving cancels too.
    Infinite for fewer than two blocks; rates must be positive. Source: von Neumann, Distribution of the Ratio
    of the Mean Square Successive Difference to the Variance (1941).
    """
    logs = np.log(np.asarray(rates, dtype=np.float64))
    if logs.size < 2:
        return math.inf
    return 2 * math.sqrt(float(np.mean(np.diff(logs) ** 2)) / logs.size)


def smallest_resolving_blocks(num_candidates: int, *, alpha: float = 0.01) -> int:
    """Fewest blocks, at least 8, whose smallest p-value passes Holm's first step: 2 / 2^n <= alpha / m."""
    return max(MIN_BLOCKS, math.ceil(math.log2(2 * num_candidates / alpha)))


@lru_cache(maxsize=32)
def _sign_patterns(num_blocks: int, seed: int) -> FloatArray:
    """Sign patterns `[F, n]` of +1 and -1: all of them, up to negation, or a random draw."""
    if num_blocks <= _MAX_EXACT_BLOCKS:
        # The last sign stays +1: the negation of a pattern has the same absolute sum.
        bits = np.arange(2 ** (num_blocks - 1))[:, None] >> np.arange(num_blocks) & 1
    else:
        bits = np.random.default_rng(seed).integers(2, size=(_NUM_PATTERNS, num_blocks))
        bits[0] = 0  # the observed pattern
    signs: FloatArray = np.where(bits, -1.0, 1.0)
    signs.setflags(write=False)  # shared by every caller through the cache
    return signs


def _as_log_ratios(log_ratios: npt.ArrayLike) -> FloatArray:
    ratios = np.asarray(log_ratios, dtype=np.float64)
    if ratios.ndim != 1 or ratios.size == 0 or not np.isfinite(ratios).all():
        raise ValueError(f"log ratios: expected at least one finite number, got {log_ratios!r}")
    return ratios
