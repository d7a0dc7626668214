"""What every chart shares: two themes, one style per recipe, axes that are easy to read, and the way to PNG."""

import base64
import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

WIDTH_IN = 8.6
_DPI = 144
_WITHIN_MARGINS = (0.012, 0.02, 0.976, 0.96)  # a dark picture is seldom as dark as its page: its edges are seen


@dataclass(frozen=True)
class Theme:
    """Colours of a chart; `series` are told apart by readers with any kind of colour vision."""

    background: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


# Okabe and Ito, Color Universal Design (2008): its order here keeps neighbours far apart in lightness too.
LIGHT = Theme(
    "#ffffff", "#1b1f24", "#5b6470", "#e3e6ea", ("#5b6470", "#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b")
)
DARK = Theme(
    "#15181c", "#e6e8eb", "#9aa3ad", "#2b3036", ("#aab2bc", "#56b4e9", "#ff8c42", "#2ec4a0", "#dd88cc", "#f0c649")
)

_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


@dataclass(frozen=True)
class Style:
    """How one recipe is drawn in every chart of a report: colour, line and marker all differ."""

    color: str
    line: str | tuple[int, tuple[int, ...]]
    marker: str


@dataclass(frozen=True)
class Picture:
    """A chart with its title and the finding in words, for readers who cannot see it.

    `redraw` draws it in another theme, for a viewer that changes its own.
    """

    name: str
    title: str
    alt: str
    figure: "Figure"
    redraw: Callable[[Theme], "Picture | None"] | None = None

    @property
    def night(self) -> "Picture | None":
        """The same in the dark theme; None where it cannot be drawn again."""
        return self.redraw(DARK) if self.redraw else None

    def png(self) -> bytes:
        """The chart as PNG."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DPI, facecolor=self.figure.get_facecolor())
        return buffer.getvalue()

    def data_uri(self) -> str:
        """The chart as a `data:` address, so that a page needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png()).decode("ascii")


def style(index: int, theme: Theme) -> Style:
    """The style of the recipe at `index` of its session; the first is the baseline, in grey."""
    return Style(theme.series[index % len(theme.series)], _LINES[index % len(_LINES)], _MARKERS[index % len(_MARKERS)])


def canvas(theme: Theme, *, columns: int = 1, height_in: float) -> tuple["Figure", list["Axes"]]:
    """A figure of one row of axes, in the theme's colours and without chart junk."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(rect=_WITHIN_MARGINS)
    figure = Figure(figsize=(WIDTH_IN, height_in), facecolor=theme.background, layout=layout)
    axes = [figure.add_subplot(1, columns, index + 1) for index in range(columns)]
    for ax in axes:
        ax.set_facecolor(theme.background)
        ax.tick_params(colors=theme.muted, labelsize=9, length=3)
        ax.tick_params(which="minor", color=theme.muted)
        ax.grid(visible=True, color=theme.grid, linewidth=0.8)
        ax.set_axisbelow(True)
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
    return figure, axes


def plain_legend(legend: "Legend") -> None:
    """Names in a legend are shown as they are written."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def caption(ax: "Axes", theme: Theme, *, title: str = "", x: str = "", y: str = "") -> None:
    """Title and axis names, left-aligned and without mathtext: a `$` in a name is a `$`."""
    if title:
        ax.set_title(title, loc="left", color=theme.ink, fontsize=10.5, fontweight="bold", parse_math=False)
    ax.set_xlabel(x, color=theme.muted, fontsize=9, parse_math=False)
    ax.set_ylabel(y, color=theme.muted, fontsize=9, parse_math=False)


def wrapped(name: str, width: int = 32) -> str:
    """A recipe's name over several lines: broken between words, else behind a bracket, else where the line is full."""
    words = textwrap.wrap(name, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(part for line in words for part in _fitting(line, width))


def _fitting(line: str, width: int) -> list[str]:
    behind = line.find("(") + 1 if len(line) > width else 0
    return [part for piece in (line[:behind], line[behind:]) for part in textwrap.wrap(piece, width)]
