"""Exercises of lesson 03: bytes of a quantized matrix, rounding to 8 bits, the smallest recipe that is good enough."""

import math
from collections.abc import Callable, Sequence

from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.exercises.replies import CORRECT, OPEN, number

WEIGHTS = (0.31, -1.27, 0.05, 0.8, -0.449, 0.0, 1.1, -0.02)

_SCALE_BYTES = 2  # of a scale or an offset in 16 bits


def matrix_bytes(answer: float | None, *, rows: int, columns: int, group_size: int) -> str:
    """Bytes of a matrix in 4 bits, with a scale and an offset of 16 bits for each group."""
    codes, groups = rows * columns / 2, rows * columns / group_size
    expected = codes + 2 * _SCALE_BYTES * groups

    def hint(given: float) -> str:
        if given == codes:
            return "those are the codes alone"
        if given == codes + _SCALE_BYTES * groups:
            return "a group has a scale and an offset"
        return f"half a byte a weight, and {units.count(groups)} groups with two numbers of {_SCALE_BYTES} bytes each"

    return number(answer, expected, hint, tolerance=0)


def rounding(answer: Callable[[Sequence[float]], tuple[Sequence[int], float]] | None) -> str:
    """A function that rounds a row of weights to 8 bits: codes from -127 to 127 and the one scale they share."""
    if answer is None:
        return OPEN
    codes, scale = answer(WEIGHTS)
    if len(codes) != len(WEIGHTS) or any(code != int(code) for code in codes):
        return f"{len(WEIGHTS)} whole numbers are wanted, one for each weight"
    if (largest := max(map(abs, codes))) != 127:
        return f"the largest weight should become 127 or -127, so that no step is wasted; yours is {largest}"
    worst = max(abs(weight - code * scale) for weight, code in zip(WEIGHTS, codes, strict=True))
    if worst > scale / 2 * (1 + 1e-6):
        return f"rounded to the nearest, no weight is off by more than half a step, {scale / 2:.4f}, yours {worst:.4f}"
    return CORRECT


def smallest_good(answer: str | None, runs: Sequence[Run], *, most_ratio: float) -> str:
    """Of the reader's own Runs, the recipe with the fewest bytes of weights whose perplexity ratio is low enough."""
    if answer is None:
        return OPEN
    by_recipe = {run.label: run for run in runs}
    if answer not in by_recipe:
        return f"no recipe {answer!r} was measured; there are: {', '.join(by_recipe)}"
    good = [run for run in runs if run.quality["perplexity_ratio"] <= most_ratio]
    least = min((run.build["weights_bytes"] for run in good), default=math.inf)
    if (ratio := by_recipe[answer].quality["perplexity_ratio"]) > most_ratio:
        return f"its perplexity ratio is {ratio:.3f}"
    if (held := by_recipe[answer].build["weights_bytes"]) > least:
        return f"it takes {units.size(held)}, another one that is good enough {units.size(least)}"
    return CORRECT
