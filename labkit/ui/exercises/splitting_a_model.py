"""Exercises of lesson 08: what ranks send, how long they wait, and when cutting a layer pays."""

from collections.abc import Callable

from labkit.bench.ceilings import DATASHEETS
from labkit.bench.link import Link
from labkit.model.config import ModelConfig
from labkit.ui import units
from labkit.ui.exercises.replies import CORRECT, OPEN, number

_BF16_BYTES = 2
_CARD = "H100"
NVLINK_BYTES_PER_S = 450e9
"""One direction of an H100's NVLink, by its datasheet."""


def sums_of_a_token(answer: float | None, sizes: ModelConfig, *, num_ranks: int) -> str:
    """Bytes that a rank of tensor parallelism sends for one token in bf16, by its all-reduces alone."""
    vector = sizes.hidden_size * _BF16_BYTES
    expected = 2 * sizes.num_layers * 2 * (num_ranks - 1) / num_ranks * vector
    return number(
        answer,
        expected,
        lambda given: (
            f"{2 * sizes.num_layers} sums of {vector:,} bytes; you say {given / (2 * sizes.num_layers * vector):.2f} "
            "times their size, a ring sends each of them 2 (p - 1) / p times"
        ),
    )


def microbatches_for(answer: int | None, *, num_ranks: int, most_idle: float) -> str:
    """The fewest microbatches that leave a pipeline idle for at most this share of the time."""
    if answer is None:
        return OPEN

    def bubble(num: int) -> float:
        return (num_ranks - 1) / (num + num_ranks - 1)

    if answer < 1 or bubble(answer) > most_idle:
        return f"{answer} microbatches through {num_ranks} stages leave {bubble(max(1, answer)):.1%} of the time idle"
    return CORRECT if answer == 1 or bubble(answer - 1) > most_idle else f"{answer - 1} would do, too"


def two_ranks_pay(answer: Callable[[float], bool] | None, sizes: ModelConfig) -> str:
    """A function from an all-reduce's latency to whether a second H100 makes one request's tokens come sooner."""
    if answer is None:
        return OPEN
    weights = (sizes.num_linear_parameters + sizes.num_head_parameters) * _BF16_BYTES
    alone_s = weights / DATASHEETS[_CARD].bandwidth(weights)
    num_sums = 2 * sizes.num_layers
    sent = num_sums * sizes.hidden_size * _BF16_BYTES
    for latency_s in (2e-6, 10e-6, 20e-6, 40e-6, 100e-6):
        both_s = alone_s / 2 + Link(latency_s, NVLINK_BYTES_PER_S).seconds(num_sums, sent)
        if bool(answer(latency_s)) != (both_s < alone_s):
            return (
                f"at {units.seconds(latency_s)} a sum, two take {units.seconds(both_s)} a token and one takes "
                f"{units.seconds(alone_s)}: half of the reading is saved, {num_sums} latencies are added"
            )
    return CORRECT
