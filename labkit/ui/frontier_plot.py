"""The picture of a Frontier: latency against throughput, and goodput against the rate. Invalid cells are left out."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from labkit.ui import units
from labkit.ui.figure import LIGHT, Picture, Style, Theme, canvas, caption, plain_legend, style
from labkit.ui.frontier import Frontier, Point, Tail
from labkit.ui.language import tr
from labkit.ui.marks import unit_ticks
from labkit.ui.readings import value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT_IN = 3.6
_PER_NAME_IN = 0.22

_Read = Callable[[Point], float | None]


def picture(frontier: Frontier, *, theme: Theme = LIGHT) -> Picture | None:
    """Three panels, a curve each recipe; a filled mark was kept up with, a hollow one was not."""
    drawn = [(name, [one for one in frontier.series(name) if one.run.is_valid]) for name in frontier.names]
    if not any(points for _, points in drawn):
        return None
    every = [point for _, points in drawn for point in points]
    figure, axes = canvas(theme, columns=3, height_in=_HEIGHT_IN + _PER_NAME_IN * (len(drawn) + 2))
    panels: list[tuple[Axes, _Read, _Read]] = [(axes[2], _sent, _good)]
    for ax, metric, title, limit_s in (
        (axes[0], "ttft_s", "time to first token", frontier.limits.ttft_s),
        (axes[1], "tpot_s", "time per later token", frontier.limits.tpot_s),
    ):
        q = _percentile(metric, every)
        panels.append((ax, _done, _at(f"{metric}.p{q}")))
        ax.axhline(limit_s, color=theme.muted, linewidth=1, linestyle="--")
        ax.set_yscale("log")
        caption(ax, theme, title=f"p{q} {title}" if q else title, x="requests/s done")
    for index, (name, points) in enumerate(drawn):
        for number, (ax, x, y) in enumerate(panels):
            _curve(ax, points, x, y, style(index, theme), theme, name=name if number == 0 else "")
    for ax in axes[:2]:
        unit_ticks(ax, units.seconds, axis="y")
    top = max(_sent(point) or 0.0 for point in every)
    axes[2].plot([0, top], [0, top], color=theme.muted, linewidth=1, linestyle="--")
    caption(axes[2], theme, title="within both limits", x="requests/s sent", y="requests/s")
    axes[2].plot([], [], "o", markerfacecolor="none", markeredgecolor=theme.muted, label="hollow: does not keep up")
    axes[2].plot([], [], color=theme.muted, linewidth=1, linestyle="--", label="limit, or all that was sent")
    for ax in axes:
        ax.set_xlim(left=0)
    axes[2].set_ylim(bottom=0)
    legend = figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, handlelength=4, labelcolor=theme.ink)
    plain_legend(legend)
    return Picture("frontier", tr("Latency and goodput under load"), tr(" ").join(frontier.findings), figure)


def _at(metric: str) -> _Read:
    return lambda point: value(point.run, metric)


def _curve(
    ax: "Axes",
    points: list[Point],
    x: _Read,
    y: _Read,
    look: Style,
    theme: Theme,
    *,
    name: str = "",
) -> None:
    told = [
        (at, to, point.is_kept_up) for point in points if (at := x(point)) is not None and (to := y(point)) is not None
    ]
    xs, ys = [at for at, _, _ in told], [to for _, to, _ in told]
    ax.plot(xs, ys, look.marker, color=look.color, linestyle=look.line, linewidth=1.7, markersize=6, label=name or None)
    hollow = [(at, to) for at, to, is_kept in told if not is_kept]
    ax.plot(
        [at for at, _ in hollow], [to for _, to in hollow], look.marker, markersize=6, markeredgecolor=look.color,
        markerfacecolor=theme.background, linestyle="none",
    )  # fmt: skip


def _done(point: Point) -> float | None:
    return point.served.completed_per_s if point.served else None


def _sent(point: Point) -> float | None:
    return point.served.offered_per_s if point.served else None


def _good(point: Point) -> float | None:
    return point.good.value if point.good else None


def _percentile(metric: str, points: list[Point]) -> int:
    """The rarest percentile that all of these can tell: curves of different ones do not compare; 0 for none."""
    return min((tail.q if (tail := Tail.of(point.run, metric)) else 0 for point in points), default=0)
