"""The chart of a scaling curve: what was measured, the laws through it, and the line that no one reaches."""

from collections.abc import Sequence

from labkit.core.run import Run
from labkit.ui.curves import curves, told
from labkit.ui.figure import LIGHT, Picture, Theme, canvas, caption, plain_legend, style
from labkit.ui.language import tr
from labkit.ui.marks import number_ticks

_POINTS = 60


def scaling(runs: Sequence[Run], *, theme: Theme = LIGHT) -> Picture | None:
    """Throughput over cores, a line for each way and law; None without a curve of two points."""
    found = curves(runs)
    if not found:
        return None
    figure, (ax,) = canvas(theme, height_in=3.6)
    most = max(num for curve in found for num in curve.rates)
    for index, curve in enumerate(found, start=1):
        look = style(index, theme)
        ax.plot(*zip(*curve.rates.items(), strict=True), look.marker, color=look.color, markersize=8, label=curve.way)
        for (law, law_fit), line in zip(curve.fits.items(), ("--", "-"), strict=True):
            if law_fit is not None:
                xs = [1 + (most - 1) * step / _POINTS for step in range(_POINTS + 1)]
                ys = [law_fit.rate(x) for x in xs]
                ax.plot(xs, ys, line, color=look.color, linewidth=1.4, label=f"{law}, {curve.way}")
    first = max(curve.rates[min(curve.rates)] for curve in found)
    ideal = "every core as the first"
    ax.plot([1, most], [first, most * first], ":", color=theme.muted, linewidth=1, label=ideal)
    ax.set_xlim(0.8, most + 0.2)
    ax.set_ylim(bottom=0)
    number_ticks(ax)
    ax.set_xticks(sorted({num for curve in found for num in curve.rates}))
    caption(ax, theme, x="cores", y="output tokens per second")
    plain_legend(ax.legend(frameon=False, fontsize=8.5, labelcolor=theme.ink, loc="upper left"))
    finding = tr(" ").join(text for curve in found for text in told(curve))
    return Picture("scaling", tr("Scaling"), finding, figure, redraw=lambda other: scaling(runs, theme=other))
