"""Draws: what the seed of a WorkloadSpec decides once for all passes, lengths and arrivals, and excerpts of text."""

import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from labkit.core.workload import WorkloadSpec


class Length(NamedTuple):
    """Tokens of one request."""

    prompt_tokens: int
    new_tokens: int


class Lengths(NamedTuple):
    """Tokens of every request, and of the longest prompt of every conversation."""

    requests: tuple[Length, ...]
    conversations: tuple[int, ...]


@lru_cache(maxsize=64)
def lengths(spec: "WorkloadSpec") -> Lengths:
    """How long the requests of a pass are.

    A workload with a share of the new tokens draws the same numbers, so that its requests keep their order by length.
    """
    if spec.replay:
        recorded = tuple(Length(line.prompt_tokens, line.new_tokens) for line in spec.replay)
        return Lengths(recorded, tuple(length.prompt_tokens for length in recorded))
    rng, shared = random.Random(f"{spec.seed}/lengths"), spec.shared_prefix_tokens
    whole = tuple(
        _even(rng, spec.min_prompt_tokens, spec.prompt_tokens) for _ in range(spec.num_requests // spec.turns)
    )
    requests = []
    for number in range(spec.num_requests):
        conversation, turn = place(spec, number)
        grown = math.ceil((whole[conversation] - shared) * (turn + 1) / spec.turns)
        requests.append(Length(shared + grown, _even(rng, spec.min_new_tokens, spec.new_tokens)))
    return Lengths(tuple(requests), whole)


def place(spec: "WorkloadSpec", number: int) -> tuple[int, int]:
    """Conversation and turn of a request: a server's arrivals go through the conversations turn by turn."""
    if spec.scenario == "server":
        turn, conversation = divmod(number, spec.num_requests // spec.turns)
        return conversation, turn
    return divmod(number, spec.turns)


def arrivals_s(spec: "WorkloadSpec") -> tuple[float, ...]:
    """When requests arrive under open load, in seconds after the start; all 0 where something else sends them.

    Two rates of one seed have the same gaps, scaled: a sweep of the rate does not also draw its luck anew.
    """
    if spec.scenario != "server":
        return (0.0,) * spec.num_requests
    if spec.rate_per_s is None:
        return tuple(line.arrival_s for line in spec.replay)
    rng, at_s, times_s = random.Random(f"{spec.seed}/arrivals"), 0.0, []
    for _ in range(spec.num_requests):
        at_s += _gap_s(rng, spec.rate_per_s, spec.arrival_cv)
        times_s.append(at_s)
    return tuple(times_s)


def excerpt(text: str, start: int, length: int) -> str:
    """`length` characters from the start of the line after `start`, going round at the end of the text."""
    start = text.find("\n", start) + 1
    cut = text[start : start + length]
    while len(cut) < length:
        cut += text[: length - len(cut)]
    return cut


def _gap_s(rng: random.Random, rate_per_s: float, cv: float) -> float:
    """A gap of mean 1 / rate: exponential for a coefficient of variation of 1, else gamma of shape 1 / cv²."""
    if cv == 1:
        return rng.expovariate(rate_per_s)
    return rng.gammavariate(cv**-2, cv**2) / rate_per_s if cv else 1 / rate_per_s


def _even(rng: random.Random, low: int | None, high: int) -> int:
    """A whole number from low to high, each as likely; high where there is no low."""
    return high if low is None else low + int(rng.random() * (high - low + 1))
