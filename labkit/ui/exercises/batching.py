"""Exercises of lesson 06: idle places, blocks of a cache, and requests under way."""

import math
import random
from collections.abc import Callable, Sequence

from labkit.core.trace import RequestTrace, Trace
from labkit.ui.exercises.replies import CORRECT, OPEN

_NUM_BATCHES = 20


def idle_share(answer: Callable[[Sequence[int]], float] | None) -> str:
    """A function from the tokens that each of a static batch makes to the share of its places that are idle."""
    if answer is None:
        return OPEN
    rng = random.Random(0)
    for _ in range(_NUM_BATCHES):
        tokens = [rng.randint(1, 64) for _ in range(rng.randint(1, 16))]
        busy, places = sum(tokens), len(tokens) * max(tokens)
        given = answer(tokens)
        if not math.isclose(given, 1 - busy / places, abs_tol=1e-6):
            return (
                f"{tokens}: the batch runs for {max(tokens)} steps, so it has {places} places, of which {busy} give a "
                f"token; you say {given:.3f} are idle"
            )
    return CORRECT


def requests_that_fit(
    answer: int | None, *, budget_bytes: int, token_bytes: int, block_size: int, num_tokens: int
) -> str:
    """How many requests of so many tokens, prompt and output, the budget of a paged cache holds to their ends."""
    if answer is None:
        return OPEN
    blocks, each = budget_bytes // (token_bytes * block_size), -(-num_tokens // block_size)
    if answer == blocks // each:
        return CORRECT
    return f"the budget is {blocks} blocks, and {answer} requests of {num_tokens} tokens fill {answer * each} of them"


def under_way(answer: Callable[[Trace], float] | None) -> str:
    """A function from a Trace to how many requests were under way on average: Little's law."""
    if answer is None:
        return OPEN
    rng = random.Random(1)
    spans = sorted((arrival_s := rng.uniform(0, 8), arrival_s + rng.uniform(0.5, 2)) for _ in range(40))
    requests = tuple(RequestTrace(start, start, start, (end,), (0,), 1) for start, end in spans)
    trace = Trace(requests, 10.0)
    expected = sum(end - start for start, end in spans) / trace.duration_s
    given = answer(trace)
    if math.isclose(given, expected, rel_tol=0.01):
        return CORRECT
    return (
        f"{len(spans)} requests in {trace.duration_s:.0f} s, each for {expected * trace.duration_s / len(spans):.2f} s "
        f"from its arrival to its last token, make {expected:.2f}; you say {given:.2f}"
    )
