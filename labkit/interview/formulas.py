"""Formulas that numeric questions are solved by. A parameter is a figure of the reader or given in the question.

The last part of a name is its unit, as everywhere: `_s`, `_bytes`, `_bytes_per_s`, `_tok_per_s`, `_share`, `_factor`.
"""

import inspect
import math
from collections.abc import Callable, Mapping

from labkit.core.errors import LabkitError

Formula = Callable[..., float]

# ---- the roofline of decoding and prefill ----


def least_tpot_s(step_weights_bytes: float, read_bytes_per_s: float) -> float:
    """At batch 1 every weight is read once for each token."""
    return step_weights_bytes / read_bytes_per_s


def least_step_s(step_bytes: float, read_bytes_per_s: float) -> float:
    """The same with the keys and values that a step reads."""
    return step_bytes / read_bytes_per_s


def limit_share(step_bytes: float, read_bytes_per_s: float, step_s: float) -> float:
    """Part of the memory-bound limit that the measured step reaches."""
    return least_step_s(step_bytes, read_bytes_per_s) / step_s


def achieved_bytes_per_s(step_bytes: float, step_s: float) -> float:
    """Bandwidth that the measured steps amount to."""
    return step_bytes / step_s


def token_flops(num_parameters: float) -> float:
    """A multiplication and an addition for each weight."""
    return 2 * num_parameters


def least_prefill_s(num_parameters: float, prompt_tokens: float, flops_per_s: float) -> float:
    """Prefill is bound by arithmetic: all tokens share one reading of the weights."""
    return token_flops(num_parameters) * prompt_tokens / flops_per_s


def intensity_flops_per_byte(batch: float, weight_bits: float) -> float:
    """FLOPs for each byte of weights, when a batch shares one reading of them."""
    return 2 * batch / (weight_bits / 8)


def ridge_flops_per_byte(flops_per_s: float, read_bytes_per_s: float) -> float:
    """Intensity from which on arithmetic bounds, not memory (Williams et al. 2009)."""
    return flops_per_s / read_bytes_per_s


def critical_batch_count(flops_per_s: float, read_bytes_per_s: float, weight_bits: float) -> float:
    """Batch whose intensity is the ridge."""
    return ridge_flops_per_byte(flops_per_s, read_bytes_per_s) * (weight_bits / 8) / 2


def dispatch_total_s(num_launches: float, dispatch_s: float) -> float:
    """What starting operations takes in a step, if nothing hides it."""
    return num_launches * dispatch_s


def cache_factor(weights_bytes: float, cache_bytes: float) -> float:
    """How many times the weights fill the largest cache."""
    return weights_bytes / cache_bytes


def batch_tok_per_s(
    batch: float, step_weights_bytes: float, kv_token_bytes: float, context_tokens: float, read_bytes_per_s: float
) -> float:
    """Weights are read once for the batch, keys and values once for each sequence."""
    return batch * read_bytes_per_s / (step_weights_bytes + batch * kv_token_bytes * context_tokens)


# ---- keys and values ----


def kv_token_bytes(num_layers: float, num_kv_heads: float, head_dim: float, kv_bits: float) -> float:
    """A key and a value for each layer, KV head and element."""
    return 2 * num_layers * num_kv_heads * head_dim * kv_bits / 8


def kv_sequence_bytes(
    num_layers: float, num_kv_heads: float, head_dim: float, kv_bits: float, context_tokens: float
) -> float:
    """Of a sequence so long."""
    return kv_token_bytes(num_layers, num_kv_heads, head_dim, kv_bits) * context_tokens


def gqa_factor(num_heads: float, num_kv_heads: float) -> float:
    """How many query heads share a key and a value."""
    return num_heads / num_kv_heads


def sequences_count(
    memory_bytes: float,
    memory_share: float,
    weights_bytes: float,
    num_layers: float,
    num_kv_heads: float,
    head_dim: float,
    kv_bits: float,
    context_tokens: float,
) -> float:
    """Whole sequences that fit beside the weights in this part of the memory."""
    left_bytes = max(0.0, memory_bytes * memory_share - weights_bytes)
    return left_bytes // kv_sequence_bytes(num_layers, num_kv_heads, head_dim, kv_bits, context_tokens)


def reserved_waste_share(prompt_tokens: float, new_tokens: float, reserved_tokens: float) -> float:
    """Part of a slot that is reserved for the longest sequence and never used."""
    return max(0.0, 1 - (prompt_tokens + new_tokens) / reserved_tokens)


def blocks_count(prompt_tokens: float, new_tokens: float, block_tokens: float) -> float:
    """Blocks of a paged cache; the last one may be partly empty."""
    return math.ceil((prompt_tokens + new_tokens) / block_tokens)


def recomputed_factor(prompt_tokens: float, new_tokens: float) -> float:
    """Tokens that go through the model without a cache over those with one; the last new token never goes in."""
    without = new_tokens * prompt_tokens + new_tokens * (new_tokens - 1) / 2
    return without / (prompt_tokens + new_tokens - 1)


def prefix_ttft_s(prompt_tokens: float, cached_share: float, prefill_tok_per_s: float) -> float:
    """Only what is not in the prefix cache is computed."""
    return prompt_tokens * (1 - cached_share) / prefill_tok_per_s


# ---- smaller weights ----


def grouped_weights_bytes(num_parameters: float, weight_bits: float, scale_bits: float, group_size: float) -> float:
    """Weights with a scale for each group."""
    return num_parameters * (weight_bits + scale_bits / group_size) / 8


def plain_weights_bytes(num_parameters: float, weight_bits: float) -> float:
    """Weights and nothing else."""
    return num_parameters * weight_bits / 8


def quantized_factor(step_weights_bytes: float, step_kv_bytes: float, shrink: float) -> float:
    """Amdahl's law on bytes: only the weights shrink."""
    return (step_weights_bytes + step_kv_bytes) / (step_weights_bytes / shrink + step_kv_bytes)


def sparse_2_4_bytes(num_parameters: float, weight_bits: float) -> float:
    """Of each four weights two values are kept, with 2 bits each that say where they stood."""
    return num_parameters / 2 * (weight_bits + 2) / 8


def break_even_rank_count(hidden_size: float, intermediate_size: float) -> float:
    """Rank at which the two factors hold as many numbers as the matrix."""
    return hidden_size * intermediate_size / (hidden_size + intermediate_size)


# ---- several processes and devices ----


def all_reduce_bytes(num_layers: float, hidden_size: float, activation_bits: float, ranks: float) -> float:
    """Two all-reduces a layer, in each of which a rank of a ring sends 2 (n - 1) / n of the vector."""
    return 2 * num_layers * 2 * (ranks - 1) / ranks * hidden_size * activation_bits / 8


def stage_bytes(hidden_size: float, activation_bits: float) -> float:
    """What one stage of a pipeline hands to the next for a token."""
    return hidden_size * activation_bits / 8


def bubble_share(ranks: float, microbatches: float) -> float:
    """n - 1 of m + n - 1 slots stand empty (GPipe, Huang et al. 2019)."""
    return (ranks - 1) / (microbatches + ranks - 1)


def amdahl_factor(serial_share: float, num_cores: float) -> float:
    """Amdahl's law (1967)."""
    return 1 / (serial_share + (1 - serial_share) / num_cores)


def offload_step_s(num_parameters: float, weight_bits: float, link_bytes_per_s: float) -> float:
    """All weights cross the link for every step."""
    return plain_weights_bytes(num_parameters, weight_bits) / link_bytes_per_s


# ---- latency under load ----


def answer_s(ttft_s: float, tpot_s: float, answer_tokens: float) -> float:
    """The first token, then a gap for each further one."""
    return ttft_s + (answer_tokens - 1) * tpot_s


def tokens_in_time_count(ttft_s: float, tpot_s: float, deadline_s: float) -> float:
    """Tokens that are out before the deadline."""
    return max(0.0, 1 + (deadline_s - ttft_s) // tpot_s) if deadline_s >= ttft_s else 0.0


def in_flight_count(rate_per_s: float, e2e_s: float) -> float:
    """Little's law (1961)."""
    return rate_per_s * e2e_s


def queued_s(e2e_s: float, busy_share: float) -> float:
    """Mean time in an M/M/1 queue: service time over what is idle."""
    return e2e_s / (1 - busy_share)


def passes_count(needed_samples: float, num_requests: float) -> float:
    """Passes until so many requests were served."""
    return math.ceil(needed_samples / num_requests)


def chunks_count(prompt_tokens: float, prefill_budget: float) -> float:
    """Steps that a prompt takes in chunks of the budget."""
    return math.ceil(prompt_tokens / prefill_budget)


def per_million_price(price_per_hour: float, output_tok_per_s: float) -> float:
    """Of a million output tokens on a machine that is always busy."""
    return price_per_hour / 3600 / output_tok_per_s * 1e6


# ---- speculation ----


def kept_tokens(acceptance_rate: float, num_drafted: float) -> float:
    """Expected tokens of a step, its own among them (Leviathan et al. 2023)."""
    return (1 - math.pow(acceptance_rate, num_drafted + 1)) / (1 - acceptance_rate)


def speculative_tpot_s(step_s: float, acceptance_rate: float, num_drafted: float, draft_share: float) -> float:
    """A step and its drafts, over the tokens that they yield."""
    return step_s * (1 + num_drafted * draft_share) / kept_tokens(acceptance_rate, num_drafted)


# ---- attention ----


def even_context_count(num_parameters: float, num_layers: float, num_heads: float, head_dim: float) -> float:
    """Context at which attention takes as many FLOPs a token as the weights: 4 a layer, head element and position."""
    return token_flops(num_parameters) / (4 * num_layers * num_heads * head_dim)


FORMULAS: Mapping[str, Formula] = {
    name: thing
    for name, thing in globals().copy().items()
    if inspect.isfunction(thing) and thing.__module__ == __name__
}
"""By name, as the bank's questions call them."""


def parameters(formula: str) -> tuple[str, ...]:
    """Names of what a formula takes.

    Raises:
        LabkitError: there is no such formula.
    """
    if formula not in FORMULAS:
        raise LabkitError(f"formula {formula!r} was asked for; labkit.interview.formulas has none of that name")
    return tuple(inspect.signature(FORMULAS[formula]).parameters)


def needed(formula: str, given: Mapping[str, float]) -> tuple[str, ...]:
    """Figures of the reader that a formula takes, those of formulas that it takes the result of among them."""
    names: dict[str, None] = {}
    for name in parameters(formula):
        if name in given:
            continue
        names |= dict.fromkeys(needed(name, given) if name in FORMULAS else (name,))
    return tuple(names)


def solve(formula: str, known: Mapping[str, object]) -> float:
    """The result of a formula with these figures; a parameter named after another formula is that one's result.

    Raises KeyError for a figure that is not known.
    """
    values = {}
    for name in parameters(formula):
        values[name] = known[name] if name in known or name not in FORMULAS else solve(name, known)
    return float(FORMULAS[formula](**values))
