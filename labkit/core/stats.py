"""What one sample can say: percentiles, medians and means with an interval that holds, or nothing at all."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MIN_BOOTSTRAP_SAMPLES = 30  # below this the bootstrap covers less than it claims
MIN_GROUPS = 8  # below this the likeness of values within a group cannot be estimated
_RESAMPLED_VALUES = 2**20  # drawn at a time, which bounds memory whatever the sample size


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its confidence interval at `level`.

    The unit is that of the samples. `num_samples` counts the values the estimate was made from.
    """

    value: float
    low: float
    high: float
    level: float
    num_samples: int

    def to_dict(self) -> dict[str, float | int]:
        """Return the fields as plain data for JSON; `Estimate(**data)` restores it."""
        return asdict(self)


@lru_cache
def min_samples(q: float) -> int:
    """Fewest samples from which percentile `q` (0 to 100, exclusive) may be stated.

    The smallest n at which, with 99 % confidence, at least two of n samples lie beyond the percentile, so
    that its bound is not the single most extreme sample: P(Binomial(n, 1 - p) <= 1) < 0.01. This gives
    11, 64, 130, 662 and 6,636 samples for p50, p90, p95, p99 and p99.9. Raises ValueError for `q` outside
    (0, 100). Source: early stopping in MLPerf Inference's LoadGen (`early_stopping.cc`, one sample over
    latency allowed, tolerance 0, confidence 0.99).
    """
    _check_fraction("q / 100", q / 100)
    beyond = min(q, 100 - q) / 100
    within = 1 - beyond
    candidates = range(2, 2**62)
    index = bisect_left(candidates, True, key=lambda n: within ** (n - 1) * (within + n * beyond) < 0.01)
    return candidates[index]


def missing_samples(num_samples: int, q: float) -> int:
    """How many more samples percentile `q` (0 to 100) needs before it may be stated; 0 when none."""
    return max(0, min_samples(q) - num_samples)


def percentile(samples: npt.ArrayLike, q: float, *, level: float = 0.95) -> Estimate | None:
    """Percentile `q` (0 to 100) of independent samples `[n]`, or None where they are too few.

    The value is the nearest-rank order statistic. So are the ends of the interval, which therefore holds
    for any distribution: each side errs with at most (1 - level) / 2, an exact binomial tail. None below
    `min_samples(q)` and where even the extreme samples cannot bound the percentile at this level. Raises
    ValueError for samples that are not finite numbers in one dimension. Source: Hahn, Meeker and Escobar,
    Statistical Intervals (2017), section 5.2.
    """
    values = _as_samples(samples)
    return _order_statistics(values, q, level, num_independent=values.size)


def pooled_percentile(groups: Sequence[npt.ArrayLike], q: float, *, level: float = 0.95) -> Estimate | None:
    """Percentile `q` (0 to 100) of pooled values that are alike within their group, or None where too few.

    Each group `[n_g]` holds the values of one request (its inter-token gaps). The interval is that of
    `percentile` for as many independent samples as the pool is worth: its size over the design effect (the
    variance of the fraction below the percentile between groups, against that of independent values), with
    Student's t for few groups. None where that worth is below `min_samples(q)`, and below 8 groups that are
    not empty: a bootstrap over groups would state p99 all the same and, where whole requests are slow, cover
    it half of the time. `num_samples` counts the pooled values. Raises ValueError as `percentile` does.
    Source: Woodruff, Confidence Intervals for Medians and Other Position Measures (1952), with the effective
    sample size of Korn and Graubard, Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts (1998).
    """
    filled = _filled(groups)
    if len(filled) < MIN_GROUPS:
        return None
    return _order_statistics(np.concatenate(filled), q, level, num_independent=int(_worth(filled, q, level)))


def missing_pooled_samples(groups: Sequence[npt.ArrayLike], q: float, *, level: float = 0.95) -> int:
    """How many more values, in groups like these, `pooled_percentile` needs for percentile `q`; 0 where it states it.

    An estimate: more values are worth as much as those there are, and no group is worth less than a single value.
    Raises ValueError as `percentile` does.
    """
    filled = _filled(groups)
    num_values = sum(values.size for values in filled)
    if not filled:
        return min_samples(q)
    in_groups = math.ceil(max(0, MIN_GROUPS - len(filled)) * num_values / len(filled))
    if in_groups:
        return max(in_groups, missing_samples(num_values, q))
    worth = max(_worth(filled, q, level), _few_groups(len(filled), level) * len(filled))
    return max(0, math.ceil(num_values * min_samples(q) / worth) - num_values)


def _filled(groups: Sequence[npt.ArrayLike]) -> list[FloatArray]:
    return [values for values in map(_as_samples, groups) if values.size]


def _worth(filled: Sequence[FloatArray], q: float, level: float) -> float:
    """As how many independent samples a pool of two or more groups counts for a percentile, at most its size."""
    pooled = np.concatenate(filled)
    cut = np.percentile(pooled, q, method="inverted_cdf")
    fraction = np.mean(pooled <= cut)
    excess = np.array([np.sum(values <= cut) - fraction * values.size for values in filled])
    variance = float(excess @ excess) * len(filled) / (len(filled) - 1) / pooled.size**2
    if variance == 0:
        return pooled.size
    return min(pooled.size, _few_groups(len(filled), level) * q / 100 * (1 - q / 100) / variance)


def _few_groups(num_groups: int, level: float) -> float:
    """What is left of the worth of a sample (0 to 1) whose spread is itself known from so few groups only."""
    upper = (1 + level) / 2
    return float(NormalDist().inv_cdf(upper) / t_quantile(upper, num_groups - 1)) ** 2


def bootstrap(
    samples: npt.ArrayLike,
    statistic: Literal["median", "mean"],
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate | None:
    """Median or mean of independent samples `[n]` with a bootstrap interval, or None where too few.

    The percentile interval, expanded because a bootstrap's spread is sqrt((n - 1) / n) too small and normal
    where Student's t belongs. Below 30 samples a median falls back to `percentile` and a mean is None. Tail
    percentiles are not offered: their bootstrap intervals are far too narrow. Raises ValueError as
    `percentile` does. Source: Hesterberg, What Teachers Should Know About the Bootstrap (2015).
    """
    values = _as_samples(samples)
    num_samples = values.size
    if num_samples < MIN_BOOTSTRAP_SAMPLES:
        return percentile(values, 50, level=level) if statistic == "median" else None
    _check_fraction("level", level)
    reduce = np.median if statistic == "median" else np.mean
    rng = np.random.default_rng(seed)
    replicates = np.empty(num_resamples)
    num_rows = max(1, _RESAMPLED_VALUES // num_samples)
    for start in range(0, num_resamples, num_rows):
        part = replicates[start : start + num_rows]
        part[:] = reduce(values[rng.integers(num_samples, size=(part.size, num_samples))], axis=1)
    t = t_quantile((1 + level) / 2, num_samples - 1)
    tail = NormalDist().cdf(-t * math.sqrt(num_samples / (num_samples - 1)))
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return Estimate(value=float(reduce(values)), low=float(low), high=float(high), level=level, num_samples=num_samples)


def t_quantile(p: float, num_dof: float) -> float:
    """Quantile of Student's t, within 1 % for at least 7 degrees of freedom and `p` up to 0.9995.

    Source: Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5.
    """
    z = NormalDist().inv_cdf(p)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / num_dof + second / num_dof**2 + third / num_dof**3


def _order_statistics(values: FloatArray, q: float, level: float, *, num_independent: int) -> Estimate | None:
    """Percentile of `values` whose interval is as wide as `num_independent` samples justify."""
    if missing_samples(num_independent, q):
        return None
    ranks = _interval_ranks(num_independent, q, level)
    if ranks is None:
        return None
    # Ranks among the independent samples, stretched outwards to ranks among all values.
    low = ranks[0] * values.size // num_independent
    high = math.ceil((ranks[1] + 1) * values.size / num_independent) - 1
    ordered = np.sort(values)
    return Estimate(
        value=float(np.percentile(ordered, q, method="inverted_cdf")),
        low=float(ordered[low]),
        high=float(ordered[high]),
        level=level,
        num_samples=values.size,
    )


@lru_cache(maxsize=1024)
def _interval_ranks(num_samples: int, q: float, level: float) -> tuple[int, int] | None:
    """Zero-based ranks of the order statistics that bound percentile `q`, or None where none can."""
    _check_fraction("level", level)
    p = q / 100
    counts = np.arange(1, num_samples + 1)
    steps = np.log(num_samples - counts + 1) - np.log(counts) + math.log(p / (1 - p))
    log_pmf = num_samples * math.log1p(-p) + np.concatenate(([0.0], np.cumsum(steps)))
    cdf = np.cumsum(np.exp(log_pmf))  # [n + 1]: P(at most k samples lie below the percentile)
    tail = (1 - level) / 2
    low = int(np.sum(cdf <= tail)) - 1
    high = int(np.sum(1 - cdf > tail))
    return (low, high) if low >= 0 and high < num_samples else None


def _as_samples(samples: npt.ArrayLike) -> FloatArray:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"samples: expected finite numbers in one dimension, got shape {values.shape}")
    return values


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")
