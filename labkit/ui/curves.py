"""Scaling, told: which recipes make the curve over threads and over replicas, and what the laws say of their Runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from labkit.bench.gil import GilShare
from labkit.bench.scaling import NUM_PARAMETERS, Fit, Law, core_counts, fit
from labkit.core.contention import MAX_CONTENTION
from labkit.core.errors import UsageError
from labkit.core.recipe import Recipe
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.optimizations import bind
from labkit.optimizations.replicas import Replicas
from labkit.optimizations.threads import Threads
from labkit.ui import console, units
from labkit.ui.language import tr
from labkit.ui.readings import value

WAYS = ("threads", "replicas")
LAWS: Mapping[Law, str] = {"Amdahl": "Amdahl's law", "USL": "The Universal Scalability Law"}


@dataclass(frozen=True)
class Curve:
    """Output tokens per second by the number of cores that one way put to work."""

    way: str
    rates: Mapping[int, float]

    @property
    def fits(self) -> dict[Law, Fit | None]:
        """Every law, None where the points do not determine it."""
        return {law: fit(law, self.rates) for law in LAWS}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fits = {law: found.to_dict() if found else None for law, found in self.fits.items()}
        return {"rates": {str(num): rate for num, rate in self.rates.items()}, "fits": fits}


def recipes(base: str, spec: WorkloadSpec, num_cores: int) -> tuple[str, ...]:
    """A recipe with 1 thread, more of them, then 1 replica of one thread and more of those, up to all cores.

    Raises:
        UsageError: the recipe sets one of them itself, or is none; or arrivals fix the rate, whatever serves them.
    """
    if spec.rate_per_s is not None:
        raise UsageError(
            f"a scaling curve under workload {spec.name!r} was asked for; its arrivals fix the rate; "
            "choose one that sends all at once, such as batch"
        )
    for name in bind(base).recipe.names:
        if name in WAYS:
            raise UsageError(f"a scaling curve of {base!r} was asked for; it sets {name} itself: leave {name} out")
    counts = core_counts(num_cores)
    ways = [f"threads(num={num})" for num in counts]
    ways += [f"threads(num=1) + replicas(num={num})" for num in counts]
    return tuple(" + ".join(filter(None, (base, way))) for way in ways)


def curves(runs: Sequence[Run]) -> tuple[Curve, ...]:
    """The curves of two points or more that valid Runs of one session make, one for each recipe that was scaled."""
    valid = [run for run in runs if run.is_valid and not run.recipe.startswith("peer:")]
    # where some ran fewer tokens, prefill would weigh more in theirs
    metric = "output_tok_per_s" if len({run.token_share for run in valid}) == 1 else "decode_tok_per_s"
    rates: dict[tuple[str, str], dict[int, float]] = {}
    for run in valid:
        point, rate = _point(Recipe.parse(run.recipe)), value(run, metric)
        if point is not None and rate is not None:
            base, way, num = point
            rates.setdefault((base if run.device == "cpu" else f"{base} · {run.device}", way), {})[num] = rate
    found = {key: points for key, points in rates.items() if len(points) > 1}
    has_bases = len({base for base, _ in found}) > 1
    return tuple(
        Curve(f"{way} of {base or 'the baseline'}" if has_bases else way, dict(sorted(points.items())))
        for (base, way), points in found.items()
    )


def _point(recipe: Recipe) -> tuple[str, str, int] | None:
    """What is scaled, the way, and how many cores it takes; None without any, or where that is not the number."""
    if any(dict(step.knobs).get("oversubscribe") for step in recipe.steps):
        return None  # more processes than cores are no point on a curve over cores
    numbers = {step.name: dict(step.knobs).get("num") for step in recipe.steps if step.name in WAYS}
    base = recipe.only(name for name in recipe.names if name not in WAYS).text
    if "replicas" in numbers:
        is_one_core_each = "threads" in numbers and (numbers["threads"] or Threads.num) == 1
        return (base, "replicas", int(numbers["replicas"] or Replicas.num)) if is_one_core_each else None
    return (base, "threads", int(numbers["threads"] or Threads.num)) if "threads" in numbers else None


def told(curve: Curve) -> list[str]:
    """The curve and each law in a sentence."""
    first = min(curve.rates)
    points = ", ".join(
        f"{num}: {units.rate(rate)}" + (f" ({units.ratio(rate / curve.rates[first])})" if num != first else "")
        for num, rate in curve.rates.items()
    )
    return [
        tr("{way}, {points}.", way=curve.way, points=points),
        *(_law(law, found, curve) for law, found in curve.fits.items()),
    ]


def _law(law: Law, found: Fit | None, curve: Curve) -> str:
    name, num_points = tr("{law} over {way}", law=tr(LAWS[law]), way=curve.way), len(curve.rates)
    if found is None:
        return tr(
            "{name} has {num} parameters, which {points} points do not determine: it takes a machine with more cores.",
            name=name,
            num=NUM_PARAMETERS[law],
            points=num_points,
        )
    parts = [tr("serial part {share}", share=units.percent(found.serial))]
    if law == "USL":
        parts.append(tr("crosstalk {share} a pair", share=units.percent(found.crosstalk)))
    parts.append(_knee(found, curve))
    check = (
        tr("it misses the {num} points by {error} on average", num=num_points, error=units.percent(found.error))
        if found.error is not None
        else tr("{num} points are as many as it has parameters, so nothing is left to check it by", num=num_points)
    )
    return tr("{name}: {told}.", name=name, told=tr(", ").join(parts) + tr("; ") + check)


def _knee(found: Fit, curve: Curve) -> str:
    if found.knee is None:
        return tr("no knee in sight")
    sense = tr("the peak, after which it falls" if found.crosstalk > 0 else "where each is half as useful as one alone")
    seen = "" if found.knee <= max(curve.rates) else tr(", beyond what was measured")
    return tr("knee at {num} ({sense}{seen})", num=units.number(found.knee), sense=sense, seen=seen)


def gil_told(gil: GilShare) -> list[str]:
    """What two engines reach in two threads and in two processes, and what the lock has to do with it."""
    shared, apart = gil.threads_per_s / gil.alone_per_s, gil.processes_per_s / gil.alone_per_s
    bounds = units.interval(*gil.bounds, units.percent)
    sentences = [
        tr(
            "The interpreter's lock: one engine alone makes {alone}; two in two threads of one process {threads} "
            "({shared}); two in a process each {processes} ({apart}).",
            alone=units.rate(gil.alone_per_s),
            threads=units.rate(gil.threads_per_s),
            shared=units.ratio(shared),
            processes=units.rate(gil.processes_per_s),
            apart=units.ratio(apart),
        ),
        tr(
            "In the median round processes made {ratio} of what threads did, so Python holds the lock for about "
            "{share} of a step's time; the lowest and the highest of {num} rounds say {bounds}.",
            ratio=units.ratio(median(gil.ratios)),
            share=units.percent(gil.share),
            num=len(gil.ratios),
            bounds=bounds,
        ),
    ]
    if gil.contention > MAX_CONTENTION:
        told = "Other work took {taken} of core time meanwhile: measure again on a calm machine."
        sentences.append(tr(told, taken=units.percent(gil.contention)))
    return sentences


def conclude(runs: Sequence[Run], *, gil: GilShare | None, is_stdout: bool) -> dict[str, Any]:
    """Show all of it in sentences; returns it as plain data for JSON."""
    found = curves(runs)
    sentences = [sentence for curve in found for sentence in told(curve)] + (gil_told(gil) if gil else [])
    nothing = [tr("no curve: fewer than two valid Runs of a kind")]
    console.show_paragraphs(tr("Scaling"), sentences or nothing, is_stdout=is_stdout)
    return {"scaling": {curve.way: curve.to_dict() for curve in found}, "gil": gil.to_dict() if gil else None}
