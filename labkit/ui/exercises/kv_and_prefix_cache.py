"""Exercises of lesson 02: what a token takes in the cache, how many requests fit, and what a prefix cache can share."""

import math

from labkit.core.workload import WorkloadSpec
from labkit.engine.cost import DecoderCost
from labkit.model.config import ModelConfig
from labkit.optimizations import bind
from labkit.ui.exercises.replies import CORRECT, OPEN, number

SIXTEEN_BITS = "precision(dtype='bf16') + kv_cache"
_LEAST_SHARED = 0.9


def _token_bytes(sizes: ModelConfig) -> float:
    return (
        bind(SIXTEEN_BITS).cost(DecoderCost.baseline(sizes, WorkloadSpec("any", "single_stream", 1, 1))).kv_token_bytes
    )


def kv_token_bytes(answer: float | None, sizes: ModelConfig) -> str:
    """Bytes that a token takes in a cache of 16 bits."""
    expected = _token_bytes(sizes)

    def hint(given: float) -> str:
        forgotten = {
            expected / 2: "keys and values are both stored",
            expected * sizes.num_groups: f"{sizes.num_groups} query heads share one head of keys and values",
            expected / sizes.num_layers: "every layer stores its own",
            2 * expected: "16 bits are 2 bytes",
        }
        told = [text for value, text in forgotten.items() if math.isclose(given, value)]
        return told[0] if told else "2 · layers · KV heads · head width · bytes of a number"

    return number(answer, expected, hint, tolerance=0)


def requests_that_fit(answer: float | None, sizes: ModelConfig, *, free_bytes: float, tokens: int) -> str:
    """How many requests of so many tokens fit in memory at a time, their caches in 16 bits."""
    each = tokens * _token_bytes(sizes)

    def hint(given: float) -> str:
        return f"{given:g} of them take {given * each / 2**30:.1f} GiB; {free_bytes / 2**30:.1f} GiB are free"

    return number(answer, free_bytes // each, hint, tolerance=0)


def shared_workload(answer: WorkloadSpec | None, sizes: ModelConfig) -> str:
    """A workload of which a warm prefix cache leaves at most a tenth of the prompt tokens to compute."""
    if answer is None:
        return OPEN
    cost = bind("kv_cache + prefix_cache").cost(DecoderCost.baseline(sizes, answer))
    share = cost.cached_prompt_tokens / answer.prompt_tokens
    if answer.cache_state == "cold":
        return "a cold cache is emptied before every pass"
    if share >= _LEAST_SHARED:
        return CORRECT
    return (
        f"of {answer.shared_prefix_tokens:,} shared tokens {cost.cached_prompt_tokens:,} lie in whole blocks of "
        f"{cost.block_size}; that is {share:.0%} of the prompt, wanted are {_LEAST_SHARED:.0%}"
    )
