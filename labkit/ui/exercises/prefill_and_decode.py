"""Exercises of lesson 01: what bounds a token, from which prompt on arithmetic does, and the two latencies of a log."""

import math
from collections.abc import Callable

from labkit.bench.ceilings import DATASHEETS
from labkit.core.metrics import LATENCIES
from labkit.core.trace import RequestTrace
from labkit.ui.exercises.replies import CORRECT, OPEN, number

_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}


def least_tpot_ms(answer: float | None, *, num_parameters: float, dtype: str, bytes_per_s: float) -> str:
    """The least time per output token at batch 1, in milliseconds: every weight is read once for it."""
    expected = 1e3 * num_parameters * _BYTES[dtype] / bytes_per_s

    def hint(given: float) -> str:
        if math.isclose(given, expected / 1e3, rel_tol=0.01):
            return "those are seconds"
        if math.isclose(given, expected / _BYTES[dtype], rel_tol=0.01):
            return f"a weight in {dtype} has {_BYTES[dtype]:g} bytes"
        return "every weight crosses once for each token: bytes of all weights over bytes per second"

    return number(answer, expected, hint)


def ridge_tokens(answer: float | None, *, gpu: str, dtype: str) -> str:
    """How many tokens a step must hold for arithmetic to take as long as reading the weights, on a GPU's datasheet."""
    sheet = DATASHEETS[gpu]
    ridge = sheet.flops(dtype) / sheet.bandwidth(1e10)
    expected = ridge * _BYTES[dtype] / 2

    def hint(given: float) -> str:
        if math.isclose(given, 2 * expected, rel_tol=0.03):
            return "a weight and a token make two FLOPs: one multiplies, one adds"
        return f"the ridge lies at {ridge:.0f} FLOP per byte; how many FLOPs has a byte of {dtype} per token?"

    return number(answer, expected, hint, tolerance=0.03)


def ttft_and_tpot(answer: Callable[[RequestTrace], tuple[float, float]] | None) -> str:
    """A function from the log of one request to its TTFT and TPOT, in seconds."""
    if answer is None:
        return OPEN
    log = RequestTrace(1.0, 1.25, 1.5, (2.0, 2.1, 2.2, 2.3, 2.6), (5, 6, 7, 8, 9), 64)
    (ttft_s,), (tpot_s,) = (list(LATENCIES[name](log)) for name in ("ttft_s", "tpot_s"))
    given_ttft_s, given_tpot_s = answer(log)
    if not math.isclose(given_ttft_s, ttft_s, rel_tol=1e-6):
        return f"it was meant to be sent at 1.0 s and its first token came at 2.0 s; your TTFT is {given_ttft_s:.2f} s"
    if not math.isclose(given_tpot_s, tpot_s, rel_tol=1e-6):
        return f"five tokens have four gaps between them, 0.6 s in all; your TPOT is {given_tpot_s:.3f} s"
    return CORRECT
