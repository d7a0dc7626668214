"""Saturation: the highest rate at which a System keeps up, found by doubling or halving and then bisecting."""

import math
from collections.abc import Callable
from dataclasses import dataclass

MIN_RATE, MAX_RATE = 0.01, 100_000.0  # requests a second that a search goes down and up to
TOLERANCE = 0.1


@dataclass(frozen=True)
class Saturation:
    """The highest rate that was kept up with, and the lowest that was not, in requests a second.

    None for the first: not even the lowest rate that was tried; for the second: all rates were kept up with.
    """

    kept_per_s: float | None
    lost_per_s: float | None


def saturation(is_kept_up: Callable[[float], bool], *, start: float, tolerance: float = TOLERANCE) -> Saturation:
    """Search from a first guess until both ends differ by at most `tolerance`; rates have three digits.

    The rate asked for lies between the two ends, if what is kept up with at a rate is so at all lower ones.
    """
    low, high = None, None
    rate = rounded(min(max(start, MIN_RATE), MAX_RATE))
    while low is None or high is None:
        if is_kept_up(rate):
            low, following = rate, min(rounded(2 * rate), MAX_RATE)
        else:
            high, following = rate, max(rounded(rate / 2), MIN_RATE)
        if following == rate or (low is not None and high is not None):
            break
        rate = following
    while low is not None and high is not None and high > (1 + tolerance) * low:
        middle = rounded(math.sqrt(low * high))
        if not low < middle < high:
            break
        low, high = (middle, high) if is_kept_up(middle) else (low, middle)
    return Saturation(low, high)


def rounded(rate: float) -> float:
    """A rate of three digits: what is asked again after an interruption must be the same to the last bit."""
    return float(f"{rate:.3g}")
