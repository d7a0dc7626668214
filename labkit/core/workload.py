"""Request, Workload, and the description a Workload is drawn from.

A `WorkloadSpec` is a distribution: how many requests, how long, when. `draw(index)` gives the Workload of one pass:
the same lengths and arrivals with different prompts, so no pass can profit from what an earlier one left in a cache,
unless the spec declares a shared prefix. Prompts are text of the standard library's held-out modules, read from the
running interpreter.
"""

import hashlib
import json
import random
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from labkit.core.errors import UsageError
from labkit.core.stdlib import held_out_text

Scenario = Literal["single_stream", "offline", "server"]
SCENARIOS: tuple[Scenario, ...] = ("single_stream", "offline", "server")

CacheState = Literal["warm", "cold"]
CACHE_STATES: tuple[CacheState, ...] = ("warm", "cold")

MAX_TOKENS = 1_000_000
_CHARS_PER_TOKEN = 12  # more text than any tokenizer of ours needs for one token, so a cut to length never falls short


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    `prompt` is text, of which the System keeps as many ids as make `prompt_tokens`, or the ids themselves. `prefix` is
    text whose first `prefix_tokens` ids stand before them: what requests have in common, tokenized apart.
    `arrival_s` is the intended send time in seconds after the start of the pass.
    """

    prompt: str | tuple[int, ...]
    max_new_tokens: int
    prompt_tokens: int
    arrival_s: float = 0.0
    prefix: str = ""
    prefix_tokens: int = 0


@dataclass(frozen=True)
class Workload:
    """Requests of one pass, in order of arrival, and the way they arrive."""

    name: str
    scenario: Scenario
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class WorkloadSpec:
    """What every pass has in common: counts, lengths, arrivals, cache state and seed.

    `single_stream` sends a request when the one before is done, `offline` all at once,
    `server` by a Poisson process of `rate_per_s`. The first `shared_prefix_tokens` of `prompt_tokens` are the same in
    every request of every pass. `cold`: before each pass the System drops what earlier requests left for later ones
    (stored prefixes; weights stay in memory).
    """

    name: str
    scenario: Scenario
    prompt_tokens: int
    new_tokens: int
    num_requests: int = 1
    rate_per_s: float | None = None
    cache_state: CacheState = "warm"
    seed: int = 0
    shared_prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise UsageError.unknown("scenario", self.scenario, SCENARIOS)
        if self.cache_state not in CACHE_STATES:
            raise UsageError.unknown("cache state", self.cache_state, CACHE_STATES)
        for field, least in (("prompt_tokens", 1), ("new_tokens", 1), ("num_requests", 1)):
            value = getattr(self, field)
            if not (isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_TOKENS):
                raise UsageError(
                    f"workload {self.name!r}: {field} is {value!r}; "
                    f"allowed: whole numbers from {least} to {MAX_TOKENS:,}"
                )
        shared = self.shared_prefix_tokens
        if not (type(shared) is int and 0 <= shared < self.prompt_tokens):
            raise UsageError(
                f"workload {self.name!r}: shared_prefix_tokens is {shared!r}; allowed: whole numbers from 0 to "
                f"{self.prompt_tokens - 1:,}, below prompt_tokens; share fewer or raise prompt_tokens"
            )
        if (self.scenario == "server") != (self.rate_per_s is not None):
            raise UsageError(f"workload {self.name!r}: a rate goes with the scenario 'server', and only with it")
        if self.rate_per_s is not None and not 1e-3 <= self.rate_per_s <= 1e6:
            raise UsageError(f"workload {self.name!r}: rate_per_s is {self.rate_per_s!r}; allowed: 0.001 to 1,000,000")

    @property
    def hash(self) -> str:
        """Identifies the work: every field and the text that prompts are cut from."""
        fields = asdict(self)
        if not self.shared_prefix_tokens:
            del fields["shared_prefix_tokens"]  # such work is what it was before anything could be shared
        payload = json.dumps(fields, sort_keys=True) + _text_digest()
        return hashlib.sha256(payload.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain fields; `WorkloadSpec(**spec.to_dict())` gives it back."""
        return asdict(self)

    def draw(self, index: int) -> Workload:
        """The Workload of pass `index`: equal in shape to every other, its prompts different beyond what is shared."""
        rng = random.Random(f"{self.seed}/{index}")
        arrivals = random.Random(f"{self.seed}/arrivals")  # the same in every pass: equal load is what is compared
        text, arrival_s = held_out_text(), 0.0
        prefix, num_own = self._shared_prefix(text), self.prompt_tokens - self.shared_prefix_tokens
        requests = []
        for _ in range(self.num_requests):
            if self.rate_per_s is not None:
                arrival_s += arrivals.expovariate(self.rate_per_s)
            prompt = _excerpt(text, rng.randrange(len(text)), num_own * _CHARS_PER_TOKEN)
            requests.append(
                Request(prompt, self.new_tokens, self.prompt_tokens, arrival_s, prefix, self.shared_prefix_tokens)
            )
        return Workload(self.name, self.scenario, tuple(requests))

    def _shared_prefix(self, text: str) -> str:
        """Text that all passes begin with: the seed alone draws it."""
        start = random.Random(f"{self.seed}/prefix").randrange(len(text))
        return _excerpt(text, start, self.shared_prefix_tokens * _CHARS_PER_TOKEN)


WORKLOADS: dict[str, WorkloadSpec] = {
    spec.name: spec
    for spec in (
        WorkloadSpec("chat", "single_stream", prompt_tokens=64, new_tokens=64),
        WorkloadSpec("long", "single_stream", prompt_tokens=512, new_tokens=64),
        WorkloadSpec("batch", "offline", prompt_tokens=64, new_tokens=64, num_requests=8),
        WorkloadSpec("server", "server", prompt_tokens=64, new_tokens=32, num_requests=16, rate_per_s=4.0),
        WorkloadSpec("shared_prefix", "single_stream", prompt_tokens=1_056, new_tokens=16, shared_prefix_tokens=1_024),
    )
}
"""The named workloads, in the order they are listed to users."""


def workload(
    name: str,
    *,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    batch: int | None = None,
    rate_per_s: float | None = None,
    shared_prefix_tokens: int | None = None,
    cache_state: str | None = None,
    seed: int = 0,
) -> WorkloadSpec:
    """A named workload with some of its fields replaced; see `resized`.

    Raises:
        UsageError: no workload has that name, or a field is out of range.
    """
    if name not in WORKLOADS:
        raise UsageError.unknown("workload", name, WORKLOADS)
    spec = replace(WORKLOADS[name], seed=seed)
    return resized(
        spec,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        batch=batch,
        rate_per_s=rate_per_s,
        shared_prefix_tokens=shared_prefix_tokens,
        cache_state=cache_state,
    )


def resized(
    spec: WorkloadSpec,
    *,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    batch: int | None = None,
    rate_per_s: float | None = None,
    shared_prefix_tokens: int | None = None,
    cache_state: str | None = None,
) -> WorkloadSpec:
    """A workload with some of its fields replaced; `batch` above 1 sends that many requests at once.

    Raises:
        UsageError: a field is out of range.
    """
    changes: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "rate_per_s": rate_per_s,
        "shared_prefix_tokens": shared_prefix_tokens,
        "cache_state": cache_state,
    }
    if batch is not None:
        changes["num_requests"] = batch
        if spec.scenario == "single_stream" and batch != 1:
            changes["scenario"] = "offline"
    return replace(spec, **{key: value for key, value in changes.items() if value is not None})


def _excerpt(text: str, start: int, length: int) -> str:
    """`length` characters from the start of the line after `start`, going round at the end of the text."""
    start = text.find("\n", start) + 1
    excerpt = text[start : start + length]
    while len(excerpt) < length:
        excerpt += text[: length - len(excerpt)]
    return excerpt


@lru_cache(maxsize=1)
def _text_digest() -> str:
    return hashlib.sha256(held_out_text().encode()).hexdigest()
