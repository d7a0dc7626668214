"""Sweep: recipes of one model under rising load, cell by cell; what a store knows of it is not measured again.

A cell is one recipe on one device at one rate, measured in a session of its own and kept as a Run at once. It is known
again by its work, recipe, machine, device, model, effort and the sweep's name, so the same command goes on where it was
stopped.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

from labkit.core.errors import UsageError
from labkit.core.goodput import MIN_REQUESTS, service
from labkit.core.machine import machine
from labkit.core.run import Run
from labkit.core.workload import MAX_CONCURRENCY, WorkloadSpec
from labkit.runner.plan import Entry, Plan
from labkit.runner.saturation import Saturation, rounded, saturation

AUTO = "auto"


@dataclass(frozen=True)
class Shard:
    """Which part of a sweep this machine measures: every `num`-th cell, from number `index` (1 to `num`)."""

    index: int = 1
    num: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `i/n`.

        Raises:
            UsageError: it is none.
        """
        found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"shard {text!r} was asked for; allowed: i/n with i from 1 to n, such as 1/4")
        return cls(int(found[1]), int(found[2]))

    def of(self, things: Sequence["Task"]) -> Sequence["Task"]:
        """Its part of them."""
        return things[self.index - 1 :: self.num]


def parse_rates(texts: Iterable[str]) -> tuple[float | str, ...]:
    """Requests per second and `auto`, with commas between them, in one text or several.

    Raises:
        UsageError: one is neither.
    """
    rates: list[float | str] = []
    for text in map(str.strip, ",".join(texts).split(",")):
        try:
            rates.append(AUTO if text == AUTO else float(text))
        except ValueError:
            raise UsageError(f"rate {text!r} was asked for; allowed: requests a second such as 4, or {AUTO}") from None
    return tuple(rates)


class Task(NamedTuple):
    """An entry at a rate, or, without one, the search for the rate that it keeps up with."""

    entry: Entry
    rate_per_s: float | None


WHOLE = Shard()

Key = tuple[str, str, str, str, str, str, str]
"""What a cell is known by: hash of the work, recipe, machine, device, model, effort, name of the sweep."""

NUM_REQUESTS = 64
"""Requests of a pass, where they are not recorded ones and no number is asked for."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is swept: recipes of one model, each on each device, at each rate, on requests of one spec.

    `rates` are requests a second, or "auto". Names group cells: a sweep of another name measures everything anew.

    Raises:
        UsageError: no rate, one out of range, or requests too few to tell their rate; or see `Plan`.
    """

    model: str
    spec: WorkloadSpec
    recipes: tuple[str, ...]
    rates: tuple[float | str, ...]
    devices: tuple[str, ...] = ("cpu",)
    effort: str = "quick"
    name: str = "sweep"

    def __post_init__(self) -> None:
        if not self.rates or not self.name:
            raise UsageError(
                f"no {'name' if self.rates else 'rate'} was given; --rate 1,2,4 or --rate auto, --name NAME"
            )
        if self.spec.num_requests < MIN_REQUESTS:
            raise UsageError(
                f"a sweep with {self.spec.num_requests} requests a pass was asked for; "
                f"allowed: {MIN_REQUESTS} or more, and the rarer the percentile the more; raise --requests"
            )
        for rate in self.rates:
            if isinstance(rate, str) and rate != AUTO:
                raise UsageError(f"rate {rate!r} was asked for; allowed: requests a second such as 4, or {AUTO}")
        object.__setattr__(self, "recipes", self.plan(self.all_at_once).recipes)
        for task in self.tasks:
            if task.rate_per_s is not None:
                self.at(task.rate_per_s)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every cell whose rate is known, then a search for each recipe on each device where one is asked for."""
        entries = self.plan(self.all_at_once).entries
        rates = sorted({float(rate) for rate in self.rates if rate != AUTO})
        searches = [Task(entry, None) for entry in entries if AUTO in self.rates]
        return (*(Task(entry, rate) for rate in rates for entry in entries), *searches)

    @property
    def all_at_once(self) -> WorkloadSpec:
        """The requests without a rate: what they take then is where a search begins. Conversations stay in order, as
        many at a time as may be."""
        num = min(self.spec.num_requests // self.spec.turns, MAX_CONCURRENCY) if self.spec.turns > 1 else None
        scenario = "closed_loop" if num else "offline"
        return replace(self.spec, scenario=scenario, concurrency=num, rate_per_s=None, arrival_cv=1.0)  # type: ignore[arg-type]

    def at(self, rate_per_s: float) -> WorkloadSpec:
        """The requests at a rate."""
        return replace(self.spec, scenario="server", concurrency=None, rate_per_s=rate_per_s)

    def plan(self, spec: WorkloadSpec, entry: Entry | None = None) -> Plan:
        """How a cell is measured."""
        return Plan(
            model=self.model,
            spec=spec,
            recipes=(entry.recipe,) if entry else self.recipes,
            devices=(entry.device,) if entry else self.devices,
            effort=self.effort,
            seed=spec.seed,
            sweep=self.name,
        )

    def key(self, spec: WorkloadSpec, entry: Entry) -> Key:
        """What a cell of this sweep is known by."""
        here = machine(entry.device).fingerprint
        return spec.hash, entry.recipe, here, entry.device, self.model, self.effort, self.name


def key_of(run: Run) -> Key:
    """What the cell is known by that a Run is of."""
    there = str(run.machine.get("fingerprint", ""))
    return run.workload_hash, run.recipe, there, run.device, str(run.model["name"]), run.effort, run.sweep


def cells(runs: Iterable[Run]) -> tuple[Run, ...]:
    """One finished Run for each cell, the newest, in order of recipe, device and rate."""
    newest: dict[Key, Run] = {}
    for run in sorted(runs, key=lambda run: run.created_utc):
        if run.sweep and run.status == "done":
            newest[key_of(run)] = run
    order = list(dict.fromkeys((run.recipe, run.device) for run in newest.values()))
    return tuple(
        sorted(
            newest.values(), key=lambda run: (order.index((run.recipe, run.device)), run.workload["rate_per_s"] or 0)
        )
    )


class _Unfinished(Exception):
    """A cell did not end, so nothing that depends on it can be told."""


def sweep_cells(
    sweep: Sweep, *, measure: Callable[[Plan], Sequence[Run]], known: Iterable[Run] = (), shard: Shard = WHOLE
) -> Iterator[Run]:
    """Measure the cells of a shard that are not among the known Runs; yields each Run, known ones too.

    A cell whose Run does not end is measured again when the sweep is gone on with; a search ends there.
    """
    found = {key_of(run): run for run in cells(known)}
    for task in shard.of(sweep.tasks):
        seen: list[Run] = []

        def run_of(spec: WorkloadSpec, entry: Entry = task.entry, seen: list[Run] = seen) -> Run:
            key = sweep.key(spec, entry)
            if key not in found:
                (found[key],) = measure(sweep.plan(spec, entry))
            seen.append(found[key])
            if found[key].status != "done":
                raise _Unfinished
            return found[key]

        with suppress(_Unfinished):
            if task.rate_per_s is None:
                search(sweep, run_of)
            else:
                run_of(sweep.at(task.rate_per_s))
        yield from seen


def search(sweep: Sweep, run_of: Callable[[WorkloadSpec], Run]) -> Saturation:
    """Find the rate that is kept up with, from what the requests take when all of them are sent at once."""
    at_once = run_of(sweep.all_at_once)
    start = rounded(sweep.spec.num_requests / _pass_s(at_once, sweep.spec))
    return saturation(lambda rate: is_kept_up(run_of(sweep.at(rate))), start=start)


def _pass_s(run: Run, spec: WorkloadSpec) -> float:
    """Seconds that a Run's pass takes with all of its new tokens, from its rates where it ran a share of them."""
    parts = (("prefill_tok_per_s", spec.num_prompt_tokens), ("decode_tok_per_s", spec.num_new_tokens))
    if run.token_share < 1 and all(run.metrics.get(name) for name, _ in parts):
        return sum(float(num / run.metrics[name]["value"]) for name, num in parts)
    return median(one.trace.duration_s for one in run.passes)


def is_kept_up(run: Run) -> bool:
    """Whether a Run at a rate kept up with it; never where the load generator itself came late."""
    found = service([one.trace for one in run.passes])
    return found is not None and found.is_kept_up and not any(fault.code == "overload" for fault in run.faults)
