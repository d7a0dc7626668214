"""Frontier: what each recipe of a sweep gives at each rate, as points, a table and a picture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.bench.loadgen import Lag
from labkit.core.goodput import Limits, Service, goodput, service
from labkit.core.metrics import PERCENTILES
from labkit.core.run import Run
from labkit.core.stats import Estimate
from labkit.runner.sweep import cells, is_kept_up
from labkit.ui import units
from labkit.ui.figure import DARK, LIGHT, Picture, Theme
from labkit.ui.language import tr
from labkit.ui.readings import value
from labkit.ui.show import themed

if TYPE_CHECKING:
    import pandas as pd

HEAD = (
    "recipe",
    "rate",
    "sent/s",
    "done/s",
    "output tok/s",
    "TTFT",
    "TPOT",
    "good/s",
    "keeps up",
    "lag p99",
    "state",
)


@dataclass(frozen=True)
class Tail:
    """The rarest percentile of a latency that its samples can tell, in seconds, and how many more p99 takes."""

    q: int
    seconds: float
    missing: int

    @property
    def text(self) -> str:
        """`p95 0.120 s, p99 needs 406 more`."""
        more = tr(", p99 {missing}", missing=units.withheld(self.missing)) if self.missing else ""
        return f"p{self.q} {units.seconds(self.seconds)}{more}"

    @classmethod
    def of(cls, run: Run, metric: str) -> "Tail | None":
        """That of a Run; None where not even its median can be told."""
        missing: Mapping[str, int] = run.metrics.get(f"{metric}.missing") or {}
        for q in reversed(PERCENTILES):
            at = value(run, f"{metric}.p{q}")
            if at is not None:
                return cls(q, at, missing.get("p99", 0))
        return None


@dataclass(frozen=True)
class Point:
    """One cell: what was sent and what came of it. Rates are per second; None: nothing can be said.

    A short pass sends by chance faster or slower than its rate: `served` says what was sent, and done, in truth.
    """

    run: Run
    name: str
    rate_per_s: float | None
    served: Service | None
    good: Estimate | None
    ttft: Tail | None
    tpot: Tail | None
    lag: Lag | None

    @property
    def is_kept_up(self) -> bool | None:
        """Whether the recipe kept up with the rate; None for requests that are not sent at one."""
        return None if self.rate_per_s is None else is_kept_up(self.run)

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of `HEAD`."""
        kept = self.is_kept_up
        faults = ", ".join(fault.code for fault in self.run.faults)
        return (
            self.name,
            tr("all at once") if self.rate_per_s is None else units.number(self.rate_per_s),
            units.number(self.served.offered_per_s if self.served else None),
            units.number(self.served.completed_per_s if self.served else None),
            units.number(value(self.run, "output_tok_per_s")),
            self.ttft.text if self.ttft else units.MISSING,
            self.tpot.text if self.tpot else units.MISSING,
            units.estimate(reading_of(self.good)),
            units.MISSING if kept is None else tr("yes") if kept else tr("no"),
            units.seconds(self.lag.p99_s) if self.lag else units.MISSING,
            f"INVALID({faults})" if faults else tr("valid"),
        )


@dataclass(frozen=True)
class Frontier:
    """The cells of a sweep beside each other, under limits of latency."""

    points: tuple[Point, ...]
    limits: Limits

    @classmethod
    def of(cls, runs: Iterable[Run], limits: Limits) -> "Frontier":
        """Every finished cell among these Runs."""
        found = cells(runs)
        names = dict(zip((run.id for run in found), _names(found), strict=True))
        return cls(tuple(_point(run, limits, names[run.id]) for run in found), limits)

    @property
    def names(self) -> tuple[str, ...]:
        """Recipes, with their device and machine where there are several."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    def series(self, name: str) -> list[Point]:
        """The points of a recipe that were sent at a rate, the lowest first."""
        return [point for point in self.points if point.name == name and point.rate_per_s is not None]

    @property
    def findings(self) -> tuple[str, ...]:
        """What each recipe keeps up with, and its best goodput, in a sentence each."""
        return tuple(sentence for name in self.names if (sentence := _finding(name, self.series(name))))

    @property
    def runs(self) -> tuple[Run, ...]:
        """The Runs of all cells."""
        return tuple(point.run for point in self.points)

    def frame(self) -> "pd.DataFrame":
        """One row a cell: rates in requests per second, latencies in seconds."""
        import pandas as pd

        return pd.DataFrame([_fields(point) for point in self.points])

    def to_dict(self) -> dict[str, Any]:
        """Limits, cells and findings as plain data."""
        return {
            "limits": {"ttft_s": self.limits.ttft_s, "tpot_s": self.limits.tpot_s},
            "cells": [_fields(point) for point in self.points],
            "findings": list(self.findings),
        }

    def table(self) -> list[Sequence[str]]:
        """Rows of text, the head first."""
        return [tuple(map(tr, HEAD)), *(point.row for point in self.points)]

    def plot(self, *, theme: Theme = LIGHT) -> Picture | None:
        """Latency against throughput and goodput against the rate; None without a valid cell at a rate."""
        from labkit.ui.frontier_plot import picture

        return picture(self, theme=theme)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        day, night = self.plot(), self.plot(theme=DARK)
        if day is None:
            return {"text/plain": "\n".join("  ".join(row) for row in self.table())}
        return themed(day, night, self.table())._repr_mimebundle_()


def reading_of(found: Estimate | None) -> dict[str, Any] | None:
    """An Estimate as the fields that a Run holds."""
    return None if found is None else found.to_dict()


def _names(runs: Sequence[Run]) -> list[str]:
    """What tells the series of these Runs apart: their label, and their device and machine where there are several."""
    machines = list(dict.fromkeys(run.machine.get("fingerprint") for run in runs))
    has_devices = len({run.device for run in runs}) > 1
    names = []
    for run in runs:
        name = f"{run.label} · {run.device}" if has_devices else run.label
        if len(machines) > 1:
            number = machines.index(run.machine.get("fingerprint")) + 1
            name = tr("{name} · machine {number}", name=name, number=number)
        names.append(name)
    return names


def _point(run: Run, limits: Limits, name: str) -> Point:
    traces = [one.trace for one in run.passes]
    rate_per_s = run.workload["rate_per_s"]
    served, good = (service(traces), goodput(traces, limits)) if rate_per_s else (None, None)
    return Point(
        run,
        name,
        rate_per_s,
        served,
        good,
        Tail.of(run, "ttft_s"),
        Tail.of(run, "tpot_s"),
        Lag.of(traces),
    )


def _fields(point: Point) -> dict[str, Any]:
    told: dict[str, Any] = {
        "run": point.run.id,
        "recipe": point.run.recipe,
        "device": point.run.device,
        "rate_per_s": point.rate_per_s,
        "offered_per_s": point.served.offered_per_s if point.served else None,
        "completed_per_s": point.served.completed_per_s if point.served else None,
        "queue_growth": point.served.growth if point.served else None,
        "is_kept_up": point.is_kept_up,
        "output_tok_per_s": value(point.run, "output_tok_per_s"),
        "goodput_per_s": point.good.value if point.good else None,
    }
    for name, tail in (("ttft", point.ttft), ("tpot", point.tpot)):
        told |= {
            f"{name}_s": tail.seconds if tail else None,
            f"{name}_percentile": tail.q if tail else None,
            f"{name}_p99_missing": tail.missing if tail else None,
        }
    return told | {"lag_p99_s": point.lag.p99_s if point.lag else None, "is_valid": point.run.is_valid}


def _finding(name: str, series: Sequence[Point]) -> str:
    """The ends between which the saturation point lies, and the highest goodput."""
    at = [(point.rate_per_s or 0.0, point) for point in series]
    lost = min((rate for rate, point in at if not point.is_kept_up), default=None)
    kept = max((rate for rate, point in at if point.is_kept_up and (lost is None or rate < lost)), default=None)
    parts = [tr("keeps up with {rate}", rate=units.rate(kept, "requests/s"))] if kept is not None else []
    parts += [tr("does not keep up with {rate}", rate=units.rate(lost, "requests/s"))] if lost is not None else []
    good = [(point.good.value, point) for _, point in at if point.good is not None and point.run.is_valid]
    if good:
        best, point = max(good, key=lambda pair: pair[0])
        most, rate = units.rate(best, "requests/s"), units.number(point.rate_per_s)
        parts.append(tr("at most {most} within the limits, at a rate of {rate}", most=most, rate=rate))
    return tr("{name}: {told}.", name=name, told=tr(", ").join(parts)) if parts else ""
