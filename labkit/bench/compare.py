"""Faster, slower, the same, or cannot tell: the decision between recipes measured in randomized blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from labkit.core.inference import (
    MIN_BLOCKS,
    aa_noise,
    holm,
    sign_flip_interval,
    sign_flip_test,
    smallest_resolving_blocks,
)
from labkit.core.stats import Estimate, FloatArray

_MOST_BLOCKS = 30  # beyond, more of the same costs more time than a quieter machine

Verdict = Literal["faster", "slower", "same", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One candidate beside the baseline.

    `ratio` is candidate over baseline: above 1 the candidate's rate is higher. `p_adjusted` holds for the
    whole table. `reason` says in one sentence what the verdict rests on, or what is missing for one.
    """

    ratio: Estimate
    p_value: float
    p_adjusted: float
    verdict: Verdict
    num_blocks: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return asdict(self)


def decide(
    baseline: Sequence[float],
    candidates: Mapping[str, Sequence[float]],
    *,
    alpha: float = 0.01,
    min_effect: float = 0.02,
) -> dict[str, Decision]:
    """Decide each candidate against the baseline from their rates `[n]`, one per block, higher is better.

    Equal indices belong to one block, in which the order of the recipes was random.

    - faster, slower: the sign-flip test on log ratios, Holm-adjusted over the candidates, gives p <= `alpha`,
      and the ratio is beyond both `min_effect` and the A/A noise of the two recipes (see `aa_noise`).
    - same: the interval of the ratio at level 1 - `alpha` lies inside 1 / (1 + `min_effect`) to
      1 + `min_effect` (on a log scale, so that swapping baseline and candidate swaps the verdict).
    - cannot tell: neither, and always below 8 blocks.

    The ratio is the geometric mean over blocks; its interval inverts the same test (see
    `sign_flip_interval`), so the two never contradict each other. Raises ValueError for rates that are not
    positive and finite, and for candidates without exactly one rate for each block of the baseline.
    """
    pairs = {name: (baseline, values) for name, values in candidates.items()}
    return decide_pairs(pairs, alpha=alpha, min_effect=min_effect)


def decide_pairs(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    alpha: float = 0.01,
    min_effect: float = 0.02,
    luck: float = 0.0,
) -> dict[str, Decision]:
    """As `decide`, for candidates that were each measured in blocks of their own: (baseline's rates there, its own).

    `luck` is a log ratio that two processes of one recipe may differ by throughout: no effect up to it counts, and
    where it is above `min_effect` nothing is the same.
    """
    base_rates = {name: _as_rates("baseline", base) for name, (base, _) in pairs.items()}
    rates = {name: _as_rates(name, values) for name, (_, values) in pairs.items()}
    for name, values in rates.items():
        if values.size != base_rates[name].size:
            raise ValueError(f"{name}: {values.size} blocks, the baseline has {base_rates[name].size}")
    log_ratios = {name: np.log(values) - np.log(base_rates[name]) for name, values in rates.items()}
    p_values = [sign_flip_test(values) for values in log_ratios.values()]
    decisions = {}
    for name, p_value, p_adjusted in zip(rates, p_values, holm(p_values), strict=True):
        log_ratio = sign_flip_interval(log_ratios[name], level=1 - alpha)
        noise = max(aa_noise(base_rates[name]), aa_noise(rates[name]))
        verdict, reason = _judge(
            log_ratio, p_adjusted, noise, alpha=alpha, min_effect=min_effect, num_candidates=len(rates), luck=luck
        )
        decisions[name] = Decision(
            ratio=_exp(log_ratio),
            p_value=p_value,
            p_adjusted=p_adjusted,
            verdict=verdict,
            num_blocks=log_ratio.num_samples,
            reason=reason,
        )
    return decisions


def _judge(
    log_ratio: Estimate,
    p_adjusted: float,
    noise: float,
    *,
    alpha: float,
    min_effect: float,
    num_candidates: int,
    luck: float,
) -> tuple[Verdict, str]:
    num_blocks, size, limit = log_ratio.num_samples, abs(log_ratio.value), math.log1p(min_effect)
    ratio = _exp(log_ratio)
    interval = f"the {100 * ratio.level:.3g} % interval, {ratio.low:.4g} to {ratio.high:.4g},"
    if num_blocks < MIN_BLOCKS:
        return "cannot tell", f"any verdict needs {MIN_BLOCKS} blocks, {MIN_BLOCKS - num_blocks} are missing"
    is_significant = p_adjusted <= alpha
    if is_significant and size >= max(limit, noise, luck):
        verdict: Verdict = "faster" if log_ratio.value > 0 else "slower"
        return verdict, f"{interval} excludes 1, with adjusted p = {p_adjusted:.2g} over {num_blocks} blocks"
    if luck <= limit and log_ratio.level >= 1 - alpha and max(-log_ratio.low, log_ratio.high) < limit:
        return "same", f"{interval} lies inside ±{100 * min_effect:.3g} %"
    num_resolving = smallest_resolving_blocks(num_candidates, alpha=alpha)
    if num_blocks < num_resolving:
        reason = f"p <= {alpha:g} across {num_candidates} candidates needs {num_resolving} blocks"
        return "cannot tell", f"{reason}, {num_resolving - num_blocks} are missing"
    if luck > limit and size < luck:
        within = f"within ±{100 * math.expm1(luck):.2g} %, by which two processes of one recipe can differ"
        return (
            "cannot tell",
            f"the ratio, {ratio.value:.4g}, is {within}: use the effort standard, which starts several",
        )
    if is_significant and size >= limit:
        within = f"within the session's A/A noise of ±{100 * math.expm1(noise):.2g} %"
        return "cannot tell", f"the ratio, {ratio.value:.4g}, is {within}"
    return "cannot tell", f"{interval} is too wide: {_remedy(log_ratio, limit)}"


def _remedy(log_ratio: Estimate, limit: float) -> str:
    """How many blocks would settle an interval too wide, since its half-width shrinks as 1 / sqrt(n)."""
    size, half_width = abs(log_ratio.value), (log_ratio.high - log_ratio.low) / 2
    room = size if size >= limit else limit - size
    num_blocks = max(log_ratio.num_samples + 1, math.ceil(log_ratio.num_samples * (half_width / room) ** 2))
    if num_blocks > _MOST_BLOCKS:
        return f"it takes more than {_MOST_BLOCKS} blocks, a quieter machine or longer passes"
    return f"about {num_blocks} blocks would settle it"


def _exp(log_ratio: Estimate) -> Estimate:
    return replace(
        log_ratio, value=math.exp(log_ratio.value), low=math.exp(log_ratio.low), high=math.exp(log_ratio.high)
    )


def _as_rates(name: str, values: Sequence[float]) -> FloatArray:
    rates = np.asarray(values, dtype=np.float64)
    if rates.ndim != 1 or rates.size == 0 or not (np.isfinite(rates) & (rates > 0)).all():
        raise ValueError(f"{name}: expected a positive finite rate for each block, got {values!r}")
    return rates
