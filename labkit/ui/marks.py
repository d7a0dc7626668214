"""What charts are drawn with: horizontal bars with their limit, cumulative curves, axes that speak in units."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from labkit.core.run import Run
from labkit.core.stats import FloatArray
from labkit.ui import units
from labkit.ui.figure import Style, Theme, wrapped
from labkit.ui.readings import limit_of, reading, value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENTILES = (50, 90, 99)
BAR_HEIGHT = 0.58
_NOTE_SHARE = 0.0135  # width of a character beside a bar, as a share of the axis of a single chart
_LEAST_TICKS = 3
_LOG_STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
_REACH = 1.7  # an axis ends at so many times the longest bar: a limit beyond it is told at its end

Drawn = tuple[str, Style, Run]
"""What a chart draws: a recipe's name, its style, its Run."""


def bars(
    ax: "Axes",
    drawn: Sequence[Drawn],
    metric: str,
    theme: Theme,
    *,
    ratios: Mapping[str, float],
    has_names: bool = True,
    num_charts: int = 1,
    at_least: float = 0.0,
) -> float:
    """One bar a recipe with its interval, the value at its end and the machine's limit as an upright mark.

    The axis is long enough for the bars and for a value of `at_least`, on a figure of `num_charts` beside each other.
    Returns where it ends.
    """
    found = [reading(run, metric) for _, _, run in drawn]
    limits = [limit_of(run, metric) for _, _, run in drawn]
    longest = max([*(fields["high"] for fields in found if fields), at_least])
    end = (_REACH + 0.3 * (num_charts - 1)) * longest or 1.0  # text takes more of a narrow chart
    character = _NOTE_SHARE * num_charts * end
    for index, ((_, look, run), fields, limit) in enumerate(zip(drawn, found, limits, strict=True)):
        if limit is not None:
            limit_mark(ax, limit, index, end, theme)
        if fields is None:
            continue
        at, low, high = fields["value"], fields["low"], fields["high"]
        ax.barh(index, at, height=BAR_HEIGHT, color=look.color)
        ax.errorbar(at, index, xerr=[[at - low], [high - at]], color=theme.ink, capsize=3, linewidth=1.1)
        note = units.number(at) + (f"  {units.ratio(ratios[run.id])}" if run.id in ratios else "")
        # a limit mark that would cross the text pushes it to its other side
        is_crossed = limit is not None and high <= limit < min(end, high + character * (len(note) + 2))
        annotate(ax, note, limit if limit is not None and is_crossed else high, index, theme)
    recipe_ticks(ax, [name for name, _, _ in drawn], theme, has_names=has_names)
    ax.set_xlim(0, end)
    number_ticks(ax)
    return end


def limit_mark(ax: "Axes", limit: float, y: float, end: float, theme: Theme) -> None:
    """An upright mark at the machine's limit; where the axis ends before it, its value with an arrow."""
    if limit <= end:
        ax.plot([limit] * 2, [y - 0.36, y + 0.36], color=theme.ink, linewidth=2, solid_capstyle="butt")
        return
    ax.annotate(
        f"limit {units.number(limit)} \u2192",
        (end, y),
        xytext=(-2, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=theme.muted,
        fontsize=8.5,
        parse_math=False,
    )


def annotate(ax: "Axes", note: str, x: float, y: float, theme: Theme) -> None:
    """A small text to the right of a bar's end."""
    ax.annotate(
        note,
        (x, y),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=theme.ink,
        fontsize=8.5,
        parse_math=False,
    )


def recipe_ticks(ax: "Axes", names: Sequence[str], theme: Theme, *, has_names: bool = True) -> None:
    """One horizontal bar a recipe, the first on top, its name at the axis."""
    ax.set_yticks(range(len(names)), [wrapped(name) if has_names else "" for name in names], parse_math=False)
    ax.tick_params(axis="y", length=0, labelcolor=theme.ink)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


def ecdf(ax: "Axes", samples: FloatArray, run: Run, metric: str, name: str, look: Style) -> None:
    """The share of samples at or below each latency, with a marker at every percentile that may be stated."""
    if not samples.size:
        return
    ordered = np.sort(samples)
    shares = np.arange(1, ordered.size + 1) / ordered.size
    stated = [(q, value(run, f"{metric}.p{q}")) for q in PERCENTILES]
    ax.step(
        np.concatenate((ordered[:1], ordered)),
        np.concatenate(([0.0], shares)),
        where="post",
        color=look.color,
        linestyle=look.line,
        linewidth=1.7,
    )
    marks = [(at, q / 100) for q, at in stated if at is not None]
    # one artist carries the legend entry: line and marker together
    xs, ys = zip(*marks, strict=True) if marks else ((), ())
    ax.plot(xs, ys, marker=look.marker, color=look.color, linestyle="none", markersize=6)
    ax.plot([], [], marker=look.marker, color=look.color, linestyle=look.line, linewidth=1.7, markersize=6, label=name)


def number_ticks(ax: "Axes") -> None:
    """Few ticks on a linear x axis, with separators."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:,g}"))


def unit_ticks(ax: "Axes", form: Callable[[float], str], *, axis: Literal["x", "y"] = "x") -> None:
    """At least three ticks on a logarithmic axis whose limits are final, each in the unit it is read in."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    ticks, limits = (ax.xaxis, ax.get_xlim()) if axis == "x" else (ax.yaxis, ax.get_ylim())
    ticks.set_major_locator(FixedLocator(_log_ticks(*limits)))
    ticks.set_major_formatter(FuncFormatter(lambda at, _: _short(form(at))))
    ticks.set_minor_formatter(NullFormatter())


def _log_ticks(low: float, high: float) -> Sequence[float]:
    """Round values from low to high, as few to a decade as give three of them; even steps within part of a decade."""
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _LOG_STEPS:
        found = [at for decade in decades for step in steps if low <= (at := step * 10.0**decade) <= high]
        if len(found) >= _LEAST_TICKS:
            return found
    return [float(at) for at in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= at <= high]


def _short(text: str) -> str:
    """A round value without the zeros behind its point: `10 ms` of `10.0 ms`."""
    return re.sub(r"\.(\d*?)0+(?!\d)", lambda found: f".{found[1]}" if found[1] else "", text)
