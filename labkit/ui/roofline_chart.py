"""The roofline of Runs: how fast each phase computed, over how much it computes for each byte that it reads.

Left of the ridge bytes arrive too slowly to keep the arithmetic busy, right of it arithmetic is the bound. Source:
Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model (2009).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from labkit.core.cost import Cost
from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.figure import LIGHT, Picture, Theme, canvas, caption, plain_legend, style
from labkit.ui.language import tr
from labkit.ui.marks import unit_ticks
from labkit.ui.readings import labels, limit_of, value

_SPAN = 6.0  # the roof is drawn so many times beyond the outermost phases


@dataclass(frozen=True)
class Point:
    """A phase of a Run: FLOPs for each byte, FLOP/s that it reached, and the most that its bound allows."""

    name: str
    phase: str
    intensity: float
    reached: float
    roof: float
    bound: str


def points(runs: Sequence[Run]) -> list[Point]:
    """Prefill and decode of each valid Run whose cost, limit and rates are known."""
    names = labels(runs)
    return [point for run in runs if run.is_valid for point in _points(run, names[run.id])]


def _points(run: Run, name: str) -> Iterator[Point]:
    phases = Cost.of(run.cost).phases if run.cost else {}
    for phase, work in phases.items():
        limit = (run.limit or {}).get(phase, {})
        least = limit.get("step_s")
        rate, most = value(run, f"{phase}_tok_per_s"), limit_of(run, f"{phase}_tok_per_s")
        flops = sum(work.flops_by_dtype.values())
        if least and rate and most and work.step_bytes:
            roof = flops / least
            yield Point(name, phase, flops / work.step_bytes, roof * rate / most, roof, limit["bound"])


def rows(runs: Sequence[Run]) -> Sequence[Sequence[str]]:
    """The figures behind the picture, the first row the head."""
    head = ("recipe", "phase", "FLOP per byte", "bound by", "reached", "its roof", "share")
    told = (
        (
            point.name,
            tr(point.phase),
            units.number(point.intensity),
            tr(point.bound),
            units.arithmetic(point.reached),
            units.arithmetic(point.roof),
            units.percent(point.reached / point.roof),
        )
        for point in points(runs)
    )
    return [tuple(map(tr, head)), *told]


def roofline(runs: Sequence[Run], *, theme: Theme = LIGHT) -> Picture | None:
    """Every phase below the roof of its own recipe; None where no Run has a phase to draw."""
    found = points(runs)
    if not found:
        return None
    figure, (ax,) = canvas(theme, height_in=3.9 + 0.2 * len(found))
    names = list(dict.fromkeys(point.name for point in found))
    low, high = min(point.intensity for point in found) / _SPAN, max(point.intensity for point in found) * _SPAN
    for index, name in enumerate(names):
        look, own = style(index, theme), [point for point in found if point.name == name]
        peak = max(point.roof for point in own)
        slope = max(point.roof / point.intensity for point in own)  # bytes per second, where a phase is bound by them
        corners = [low, peak / slope, high]
        ax.plot(corners, [min(peak, slope * at) for at in corners], look.line, color=look.color, linewidth=1.2)
        for point, is_filled in zip(own, (True, False), strict=False):
            ax.plot(
                [point.intensity],
                [point.reached],
                look.marker,
                color=look.color,
                markerfacecolor=look.color if is_filled else "none",
                markersize=9,
                label=f"{name}: {point.phase}",
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    unit_ticks(ax, units.number)
    unit_ticks(ax, lambda at: units.number(at / 1e9), axis="y")
    caption(ax, theme, x="FLOP per byte read, logarithmic", y="GFLOP/s, logarithmic  (line: the roof)")
    plain_legend(figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, labelcolor=theme.ink))
    told = (
        tr(
            "{phase} computes {num} FLOP for each byte, is bound by {bound} and reached {share} of its roof",
            phase=tr(point.phase),
            num=units.number(point.intensity),
            bound=tr(point.bound),
            share=units.percent(point.reached / point.roof),
        )
        for point in found
        if point.name == names[0]
    )
    finding = tr("{name}: {told}.", name=names[0], told=tr("; ").join(told))
    return Picture("roofline", tr("Roofline"), finding, figure)
