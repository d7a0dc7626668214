"""Request, Workload, and the description a Workload is drawn from.

A `WorkloadSpec` is a distribution: how many requests, how long, when. `draw(index)` gives the Workload of one pass:
the same lengths and arrivals with different prompts, so no pass can profit from what an earlier one left in a cache,
unless the spec declares a shared prefix or replays recorded texts. Prompts are text of the standard library's held-out
modules, read from the running interpreter.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, TypedDict, Unpack

from labkit.core import draws
from labkit.core.errors import UsageError
from labkit.core.replay import MAX_TOKENS, Line
from labkit.core.stdlib import held_out_text

Scenario = Literal["single_stream", "offline", "server", "closed_loop"]
SCENARIOS: tuple[Scenario, ...] = ("single_stream", "offline", "server", "closed_loop")

CacheState = Literal["warm", "cold"]
CACHE_STATES: tuple[CacheState, ...] = ("warm", "cold")

MAX_CONCURRENCY = 4096
MAX_CV = 10.0
_CHARS_PER_TOKEN = 12  # more text than any tokenizer of ours needs for one token, so a cut to length never falls short
_MANY = 16  # requests of a load, where the workload had a single one and no number was asked for


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    `prompt` is text, of which the System keeps as many ids as make `prompt_tokens` (None: all of them), or the ids
    themselves. `prefix` is text whose first `prefix_tokens` ids stand before them: what requests have in common,
    tokenized apart. `arrival_s` is the intended send time in seconds after the start of the pass. `turn` numbers the
    requests of a conversation.
    """

    prompt: str | tuple[int, ...]
    max_new_tokens: int
    prompt_tokens: int | None
    arrival_s: float = 0.0
    prefix: str = ""
    prefix_tokens: int = 0
    turn: int = 0


@dataclass(frozen=True)
class Workload:
    """Requests of one pass, in order of arrival, and the way they arrive; `concurrency` is that of a closed loop.

    `is_vectorized`: see WorkloadSpec.
    """

    name: str
    scenario: Scenario
    requests: tuple[Request, ...]
    concurrency: int = 1
    is_vectorized: bool = False


@dataclass(frozen=True)
class WorkloadSpec:
    """What every pass has in common: counts, lengths, arrivals, cache state and seed.

    `single_stream` sends a request when the one before is done, `closed_loop` keeps `concurrency` of them outstanding,
    `offline` sends all at once, `server` by a Poisson process of `rate_per_s`, or in bursts where `arrival_cv`, the
    coefficient of variation of the gaps between arrivals, is above 1 (they are gamma distributed; 0 is a steady beat).

    `prompt_tokens` and `new_tokens` are the length of every request or, where a `min_` is given, the longest of lengths
    drawn evenly from there on. The first `shared_prefix_tokens` of a prompt are the same in every request of every
    pass. With `turns`, requests are conversations of so many: each prompt begins with the one before it and grows by
    equal parts to its drawn length. A turn is sent when the one before is answered; in a `server` all first turns
    arrive, then all second ones. Text stands for the answers, so that every System gets the same prompts.

    `replay` holds recorded requests, equal in every pass; a `server` without a rate sends them when they came.
    `cold`: before each pass the System drops what earlier requests left for later ones (stored prefixes; weights stay
    in memory).

    `is_vectorized`: texts have become vectors before they are sent; the System searches and does nothing else.
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
    min_prompt_tokens: int | None = None
    min_new_tokens: int | None = None
    arrival_cv: float = 1.0
    concurrency: int | None = None
    turns: int = 1
    replay: tuple[Line, ...] = ()
    is_vectorized: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "replay", tuple(Line(*line) for line in self.replay))  # JSON has lists
        if self.scenario not in SCENARIOS:
            raise UsageError.unknown("scenario", self.scenario, SCENARIOS)
        if self.cache_state not in CACHE_STATES:
            raise UsageError.unknown("cache state", self.cache_state, CACHE_STATES)
        self._check_lengths()
        self._check_load()

    @property
    def hash(self) -> str:
        """Identifies the work: every field and the text that prompts are cut from."""
        told = asdict(self)
        for field in fields(self):
            if field.name not in _FIRST_FIELDS and getattr(self, field.name) == field.default:
                del told[field.name]  # such work is what it was before there was this field
        payload = json.dumps(told, sort_keys=True) + _text_digest()
        return hashlib.sha256(payload.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain fields; `WorkloadSpec(**spec.to_dict())` gives it back."""
        return asdict(self)

    @property
    def lengths(self) -> tuple[draws.Length, ...]:
        """Tokens of each request of a pass, in order: the same in every pass."""
        return draws.lengths(self).requests

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt tokens of a pass."""
        return sum(length.prompt_tokens for length in self.lengths)

    @property
    def num_new_tokens(self) -> int:
        """New tokens of a pass."""
        return sum(length.new_tokens for length in self.lengths)

    @property
    def num_at_once(self) -> int:
        """Most requests that are under way at a time."""
        if self.scenario == "single_stream":
            return 1
        return min(self.concurrency or self.num_requests, self.num_requests)

    def draw(self, index: int, *, repeats: int = 1) -> Workload:
        """The Workload of pass `index`: equal in shape to every other, its prompts different beyond what is shared.

        With `repeats` a single stream goes through its requests so often, each time with other prompts.
        """
        rng = random.Random(f"{self.seed}/{index}")
        text, shared, whole = held_out_text(), self.shared_prefix_tokens, draws.lengths(self).conversations
        prefix, starts = self._shared_prefix(text), [rng.randrange(len(text)) for _ in range(repeats * len(whole))]
        shapes = list(zip(self.lengths, draws.arrivals_s(self), strict=True)) * repeats
        requests = []
        for number, (length, arrival_s) in enumerate(shapes):
            conversation, turn = draws.place(self, number)
            recorded = self.replay[number % len(self.replay)].prompt if self.replay else None
            if isinstance(recorded, str):
                requests.append(Request(recorded, length.new_tokens, None, arrival_s))
                continue
            num_own = whole[conversation % len(whole)] - shared
            # all turns are cut from one text: what they have in common is then the same ids
            prompt = draws.excerpt(text, starts[conversation], num_own * _CHARS_PER_TOKEN)
            requests.append(Request(prompt, length.new_tokens, length.prompt_tokens, arrival_s, prefix, shared, turn))
        return Workload(self.name, self.scenario, tuple(requests), self.concurrency or 1, self.is_vectorized)

    def uniform(self, scenario: Scenario | None = None, *, num_requests: int | None = None) -> "WorkloadSpec":
        """The same with every request as long as the longest, and no load of its own: what is open is sent at once."""
        return replace(
            self,
            scenario=scenario or ("single_stream" if self.scenario == "single_stream" else "offline"),
            num_requests=num_requests or self.num_at_once,
            rate_per_s=None,
            min_prompt_tokens=None,
            min_new_tokens=None,
            arrival_cv=1.0,
            concurrency=None,
            turns=1,
            replay=(),
        )

    def answered(self) -> "WorkloadSpec":
        """The same for a System that answers each request whole, by one output."""
        return replace(
            self, new_tokens=1, min_new_tokens=None, replay=tuple(line._replace(new_tokens=1) for line in self.replay)
        )

    def first(self) -> "WorkloadSpec":
        """The first request alone."""
        spec = self.uniform("single_stream", num_requests=1)
        return replace(
            spec,
            min_prompt_tokens=self.min_prompt_tokens,
            min_new_tokens=self.min_new_tokens,
            replay=self.replay[:1],
        )

    def sized(self, count: Callable[[str], int]) -> "WorkloadSpec":
        """The same with the texts of a replay as their numbers of tokens, where only those matter."""
        if not any(isinstance(line.prompt, str) for line in self.replay):
            return self
        lines = [
            line._replace(prompt=count(line.prompt)) if isinstance(line.prompt, str) else line for line in self.replay
        ]
        return replace(self, **{**_replayed(lines), "name": self.name})

    def _shared_prefix(self, text: str) -> str:
        """Text that all passes begin with: the seed alone draws it."""
        start = random.Random(f"{self.seed}/prefix").randrange(len(text))
        return draws.excerpt(text, start, self.shared_prefix_tokens * _CHARS_PER_TOKEN)

    def _check_lengths(self) -> None:
        for field in ("prompt_tokens", "new_tokens", "num_requests"):
            self._check_count(field, MAX_TOKENS)
            if getattr(self, f"min_{field}", None) is not None:
                self._check_count(f"min_{field}", getattr(self, field))
        shortest = self.min_prompt_tokens or self.prompt_tokens
        self._check_count("turns", shortest)
        shared, most = self.shared_prefix_tokens, shortest - self.turns
        if not (type(shared) is int and 0 <= shared <= most):
            raise self._error(
                "shared_prefix_tokens",
                f"whole numbers from 0 to {most:,}, below prompt_tokens; share fewer or raise prompt_tokens",
            )
        if self.turns > 1 and (self.scenario == "offline" or self.num_requests % self.turns):
            raise self._error("turns", f"divisors of the {self.num_requests:,} requests, and not all requests at once")
        if self.replay and (
            len(self.replay) != self.num_requests
            or (self.min_prompt_tokens, self.min_new_tokens, shared, self.turns) != (None, None, 0, 1)
        ):
            raise UsageError(
                f"workload {self.name!r}: recorded requests were to be replayed; "
                "they bring their own number, lengths and texts: leave ranges, shared prefixes and turns out"
            )

    def _check_load(self) -> None:
        if self.rate_per_s is not None and self.scenario != "server":
            raise UsageError(f"workload {self.name!r}: a rate goes with the scenario 'server', and only with it")
        if self.scenario == "server" and self.rate_per_s is None and not self.replay:
            raise UsageError(f"workload {self.name!r}: a rate goes with the scenario 'server', or recorded requests")
        if self.rate_per_s is not None and not 1e-3 <= self.rate_per_s <= 1e6:
            raise self._error("rate_per_s", "0.001 to 1,000,000")
        if not 0 <= self.arrival_cv <= MAX_CV or (self.arrival_cv != 1 and self.rate_per_s is None):
            raise self._error("arrival_cv", f"0 to {MAX_CV:g} beside a rate; 1 without one")
        if (self.scenario == "closed_loop") != (self.concurrency is not None):
            raise UsageError(f"workload {self.name!r}: a concurrency goes with the scenario 'closed_loop', and only so")
        if self.concurrency is not None:
            self._check_count("concurrency", MAX_CONCURRENCY)

    def _check_count(self, field: str, most: int) -> None:
        value = getattr(self, field)
        if not (type(value) is int and 1 <= value <= most):
            raise self._error(field, f"whole numbers from 1 to {most:,}")

    def _error(self, field: str, allowed: str) -> UsageError:
        return UsageError(f"workload {self.name!r}: {field} is {getattr(self, field)!r}; allowed: {allowed}")


_FIRST_FIELDS = ("name", "scenario", "prompt_tokens", "new_tokens", "num_requests", "rate_per_s", "cache_state", "seed")


WORKLOADS: dict[str, WorkloadSpec] = {
    spec.name: spec
    for spec in (
        WorkloadSpec("chat", "single_stream", prompt_tokens=64, new_tokens=64),
        WorkloadSpec("long", "single_stream", prompt_tokens=512, new_tokens=64),
        WorkloadSpec("batch", "offline", prompt_tokens=64, new_tokens=64, num_requests=8),
        WorkloadSpec("server", "server", prompt_tokens=64, new_tokens=32, num_requests=16, rate_per_s=4.0),
        WorkloadSpec("shared_prefix", "single_stream", prompt_tokens=1_056, new_tokens=16, shared_prefix_tokens=1_024),
        WorkloadSpec("queries", "single_stream", prompt_tokens=16, new_tokens=1, num_requests=32),
        WorkloadSpec("vectors", "single_stream", prompt_tokens=16, new_tokens=1, num_requests=32, is_vectorized=True),
        WorkloadSpec("query_batch", "offline", prompt_tokens=16, new_tokens=1, num_requests=256),
    )
}
"""The named workloads, in the order they are listed to users."""


class Changes(TypedDict, total=False):
    """What may be asked of a workload; None leaves a field as it is.

    `prompt_tokens` and `new_tokens` are a number, or the shortest and longest of a range. `batch` above 1 sends that
    many requests at once. A rate makes it a `server`, a concurrency a `closed_loop`, a replay a `server` that sends by
    recorded times or by a rate, where one is given.
    """

    prompt_tokens: int | tuple[int, int] | None
    new_tokens: int | tuple[int, int] | None
    num_requests: int | None
    batch: int | None
    rate_per_s: float | None
    arrival_cv: float | None
    concurrency: int | None
    turns: int | None
    replay: tuple[Line, ...] | None
    shared_prefix_tokens: int | None
    cache_state: str | None


def workload(name: str, *, seed: int = 0, **changes: Unpack[Changes]) -> WorkloadSpec:
    """A named workload with some of its fields replaced; see `Changes`.

    Raises:
        UsageError: no workload has that name, or a field is out of range.
    """
    if name not in WORKLOADS:
        raise UsageError.unknown("workload", name, WORKLOADS)
    return resized(replace(WORKLOADS[name], seed=seed), **changes)


def resized(spec: WorkloadSpec, **changes: Unpack[Changes]) -> WorkloadSpec:
    """A workload with some of its fields replaced; see `Changes`.

    Raises:
        UsageError: a field is out of range, or two of them exclude each other.
    """
    asked: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    new: dict[str, Any] = {}
    for name in ("prompt_tokens", "new_tokens"):
        if (tokens := asked.pop(name, getattr(spec, name))) != getattr(spec, name):
            low, high = tokens if isinstance(tokens, tuple) else (tokens, tokens)
            new |= {f"min_{name}": low if low != high else None, name: high}
    new |= _load(spec, asked)
    if (batch := asked.pop("batch", None)) is not None:
        new["num_requests"] = batch
        if spec.scenario == "single_stream" and batch != 1 and "scenario" not in new:
            new["scenario"] = "offline"
    if (lines := asked.pop("replay", spec.replay if "num_requests" in asked else ())) != ():
        new |= _replayed(_some(lines, asked.pop("num_requests", len(lines)), changes))
    elif "num_requests" not in asked and ("scenario" in new or "turns" in asked):
        least = max(new.get("num_requests", spec.num_requests), 1)
        turns = asked.get("turns", spec.turns)
        if least == 1 and new.get("scenario") in ("server", "closed_loop"):
            least = max(_MANY, 2 * asked.get("concurrency", 0))
        new["num_requests"] = -(-least // turns) * turns if turns > 0 else least
    return replace(spec, **{**new, **asked})


def _load(spec: WorkloadSpec, asked: dict[str, Any]) -> dict[str, Any]:
    """The scenario that a rate, a concurrency or a replay asks for; {} where none of them is asked for."""
    if {"rate_per_s", "concurrency"} <= asked.keys():
        raise UsageError(
            f"workload {spec.name!r}: a rate and a concurrency were asked for; "
            "the first sends whether or not requests are done, the second only when one is: name one of them"
        )
    if "concurrency" in asked:
        return {"scenario": "closed_loop", "rate_per_s": None}
    if asked.keys() & {"rate_per_s", "replay"}:
        return {"scenario": "server", "concurrency": None, **({} if "rate_per_s" in asked else {"rate_per_s": None})}
    return {}


def _some(lines: Sequence[Line], num: int, changes: Changes) -> Sequence[Line]:
    """The first `num` recorded requests, of which nothing else may be changed."""
    if not 1 <= num <= len(lines):
        raise UsageError(f"{num:,} recorded requests were asked for; the trace holds {len(lines):,}; ask for fewer")
    if excluded := [name for name in ("prompt_tokens", "new_tokens", "batch") if changes.get(name) is not None]:
        raise UsageError(
            f"a trace and {excluded[0]} were asked for; a trace brings its own lengths and times: leave it out"
        )
    return lines[:num]


def _replayed(lines: Sequence[Line]) -> dict[str, Any]:
    """Fields of a spec that follow from recorded requests."""
    return {
        "name": "replay",
        "replay": tuple(lines),
        "num_requests": len(lines),
        "prompt_tokens": max(line.prompt_tokens for line in lines),
        "new_tokens": max(line.new_tokens for line in lines),
    }


@lru_cache(maxsize=1)
def _text_digest() -> str:
    return hashlib.sha256(held_out_text().encode()).hexdigest()
