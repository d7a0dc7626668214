"""show: the one call that puts measured tables, pictures and panels below a notebook's cell.

What it shows reads in JupyterLab's light and dark theme, and as plain text where nothing draws HTML. Every part is a
pure function from Runs to a `Shown`; only `show` itself displays.
"""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.bench.comparison import Comparison
from labkit.core.errors import LabkitError, UsageError
from labkit.core.run import Run
from labkit.ui import page, prose
from labkit.ui.chart_tables import charted
from labkit.ui.document import comparisons_of
from labkit.ui.explain import explanation
from labkit.ui.figure import DARK, Picture
from labkit.ui.frames import tabled
from labkit.ui.history import stored
from labkit.ui.language import tr
from labkit.ui.markup import Html, join, tag, unbroken
from labkit.ui.plots import pictures
from labkit.ui.report import chapters
from labkit.ui.roofline_chart import roofline as drawn_roofline
from labkit.ui.roofline_chart import rows as roofline_rows
from labkit.ui.tables import results

if TYPE_CHECKING:
    import pandas as pd

# JupyterLab's theme is its own, not the system's: what is dark follows the mark on its body, not a media query.
CSS = """
.labkit { --good: #0b6b4f; --bad: #a4262c; --soft: #5b6470; --rule: #d9dde2; --wash: #f5f6f8; overflow-x: auto; }
.labkit { padding-left: 6px; line-height: 1.5; }
.labkit-panel .widget-inline-hbox { margin-right: 16px; }
[data-jp-theme-light="false"] .labkit { --good: #4fd1a5; --bad: #ff8a85; --soft: #9aa3ad; --rule: #343a41; }
[data-jp-theme-light="false"] .labkit { --wash: #1d2126; }
.labkit { color: var(--jp-content-font-color1, inherit); font-family: var(--jp-content-font-family, sans-serif); }
.labkit pre, .labkit code, .labkit .recipe { font-family: var(--jp-code-font-family, monospace); font-size: 0.92em; }
.labkit pre { margin: 4px 0 12px; padding: 8px 12px; overflow-x: auto; line-height: 1.35; }
.labkit pre { background: var(--wash); border-left: 3px solid var(--rule); }
.labkit h3 { margin: 18px 0 6px; font-size: 1.1em; }
.labkit p, .labkit ul.verdicts { max-width: 84ch; }
.labkit ul.verdicts { list-style: none; padding: 0; margin: 4px 0 12px; }
.labkit ul.verdicts li { padding: 5px 0 5px 14px; margin-bottom: 5px; border-left: 3px solid var(--rule); }
.labkit ul.verdicts li.faster { border-color: var(--good); }
.labkit ul.verdicts li.slower, .labkit ul.verdicts li.invalid { border-color: var(--bad); }
.labkit table { border-collapse: collapse; margin: 0; font-size: 0.92em; font-variant-numeric: tabular-nums; }
.labkit th, .labkit td { padding: 6px 8px; text-align: right; vertical-align: top; white-space: nowrap; }
.labkit th:first-child { text-align: left; white-space: normal; min-width: 16ch; font-weight: 400; }
.labkit table.words th, .labkit table.words td { text-align: left; }
.labkit table.named td:first-child { text-align: left; white-space: normal; }
.labkit table.counted th:first-child { text-align: right; min-width: 0; font-weight: inherit; }
.labkit tbody tr { border-bottom: 1px solid var(--rule); background: none; }
.labkit small { display: block; color: var(--soft); }
.labkit small.wrap { white-space: normal; max-width: 24ch; margin-left: auto; }
.labkit tr.reason td { text-align: left; white-space: normal; }
.labkit .scroll { margin-bottom: 12px; }
.labkit tr.reason td, .labkit .slower strong, .labkit .invalid strong { color: var(--bad); }
.labkit .faster strong { color: var(--good); }
.labkit .key, .labkit figcaption, .labkit summary { color: var(--soft); font-size: 0.92em; }
.labkit figure { margin: 4px 0 16px; max-width: 900px; }
.labkit img { display: block; width: 100%; height: auto; border-radius: 6px; }
[data-jp-theme-light="false"] .labkit img.day { display: none; }
[data-jp-theme-light="false"] .labkit img.night { display: block !important; }
[data-jp-theme-light="false"] .labkit-panel { --jp-widgets-dropdown-arrow: url("data:image/svg+xml,\
%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E%3Cpath fill='none' stroke='%239aa3ad'\
 stroke-width='2' d='M5 7l4 4 4-4'/%3E%3C/svg%3E"); }
"""

Sessions = Sequence[tuple[Sequence[Run], Comparison | None]]


@dataclass(frozen=True, repr=False)
class Shown:
    """A finding in two forms, of which a viewer takes the richer one that it can draw."""

    plain: str
    html: Html

    def __repr__(self) -> str:
        return self.plain

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        content = tag("div", tag("style", Html(CSS)), self.html, css="labkit")
        return {"text/plain": self.plain, "text/html": content}


def show(*things: object) -> None:
    """Display each thing: Runs, a Comparison, a data frame, a Picture, a text, or what displays itself, as a Panel.

    Outside Jupyter the plain text is printed.

    Raises:
        UsageError: a thing of another kind.
    """
    for thing in map(rendered, things):
        if _is_in_jupyter():
            from IPython.display import display

            display(thing)  # type: ignore[no-untyped-call]
        else:
            print(thing)


def rendered(thing: object) -> object:
    """The thing as a `Shown`, or itself where it knows how to be displayed.

    Raises:
        UsageError: a thing of another kind.
    """
    if hasattr(thing, "_ipython_display_") or hasattr(thing, "_repr_mimebundle_"):
        return thing
    match thing:
        case str():
            return Shown(thing, tag("p", unbroken(thing)))
        case Picture():
            return themed(thing, thing.night, ())
        case Comparison():
            return _comparison(thing)
        case Run():
            return verdicts([thing])
        case [Run(), *_] if len(runs := [one for one in thing if isinstance(one, Run)]) == len(thing):
            return _told(_sessions(runs), _verdicts, _charts, _why)
    return _frame(thing)


def verdicts(runs: Sequence[Run]) -> Shown:
    """What was found, in words and as the table of results."""
    return _told(_sessions(runs), _verdicts)


def charts(runs: Sequence[Run], *names: str) -> Shown:
    """The pictures of these names (`throughput`, `latency`, `phases`, `quality`, `memory`), or all there are."""
    return _told(_sessions(runs), lambda group, comparison: _charts(group, comparison, names))


def roofline(runs: Sequence[Run]) -> Shown:
    """Prefill and decode of each Run under the roof that memory and arithmetic make."""
    day, night = drawn_roofline(runs), drawn_roofline(runs, theme=DARK)
    if day is None:
        return Shown(text := tr("No valid Run with a known limit: nothing to draw."), tag("p", text))
    return themed(day, night, roofline_rows(runs))


def why(runs: Sequence[Run]) -> Shown:
    """The terms of each Run's prediction and what they leave unexplained."""
    return _told(_sessions(runs), _why)


def source(thing: Callable[..., object] | type) -> Shown:
    """The package's own source of a function or class, so that a lesson never shows a stale copy."""
    text = textwrap.dedent(inspect.getsource(thing)).rstrip()
    return Shown(text, join((tag("p", tag("code", f"{thing.__module__}.{thing.__qualname__}")), tag("pre", text))))


def _sessions(runs: Sequence[Run]) -> Sessions:
    return chapters(runs, [comparison for comparison in comparisons_of(runs) if comparison.rows])


def _told(sessions: Sessions, *parts: Callable[[Sequence[Run], Comparison | None], Shown]) -> Shown:
    told = [part(runs, comparison) for runs, comparison in sessions for part in parts]
    return Shown("\n\n".join(shown.plain for shown in told if shown.plain), join(shown.html for shown in told))


def _comparison(comparison: Comparison) -> Shown:
    try:
        runs = stored([comparison.baseline.id, *(row.run_id for row in comparison.rows)], is_last=False)
    except LabkitError:  # the history does not hold them: a Comparison alone has its ratios, not the raw samples
        return _frame(comparison.frame())
    return _told([(runs, comparison)], _verdicts, _charts, _why)


def _verdicts(runs: Sequence[Run], comparison: Comparison | None) -> Shown:
    table = results(runs, comparison)
    rows = [(tr("recipe"), tr("verdict"), *(column.title for column in table.columns))]
    rows += [(line.name, line.verdict.cell.line, *(cell.line for cell in line.cells)) for line in table.lines]
    sentences = [f"• {sentence.text}" for sentence in prose.verdicts(runs, comparison)]
    return Shown(
        "\n".join([*sentences, "", *_aligned(rows)]),
        join((page.verdicts(runs, comparison), page.results_table(table))),
    )


def _charts(runs: Sequence[Run], comparison: Comparison | None, names: Sequence[str] = ()) -> Shown:
    pairs = zip(pictures(runs, comparison), pictures(runs, comparison, theme=DARK), strict=True)
    shown = [
        themed(day, night, charted(day.name, runs, comparison))
        for day, night in pairs
        if not names or day.name in names
    ]
    return Shown("\n\n".join(one.plain for one in shown), join(one.html for one in shown))


def themed(day: Picture, night: Picture | None, rows: Sequence[Sequence[str]]) -> Shown:
    """A picture, of which each theme shows its own twin, with its finding and, where rows are given, its table."""
    images = [tag("img", attributes={"src": day.data_uri(), "alt": day.alt}, css="day" if night else "")]
    if night is not None:  # hidden by its own style too: a viewer may leave out the style sheet
        hidden: dict[str, object] = {"src": night.data_uri(), "alt": night.alt, "style": "display: none"}
        images.append(tag("img", attributes=hidden, css="night"))
    table = [tag("details", tag("summary", tr("The same as a table")), page.plain_table(rows))] if rows else []
    figure = tag("figure", *images, tag("figcaption", unbroken(day.alt)), *table)
    return Shown("\n".join([f"{day.title}: {day.alt}", *_aligned(rows)]), join((tag("h3", day.title), figure)))


def _why(runs: Sequence[Run], comparison: Comparison | None) -> Shown:
    paragraphs = explanation(runs, comparison)
    return Shown("\n\n".join(paragraphs), join(page.why(paragraphs)))


def _frame(frame: "pd.DataFrame | object") -> Shown:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        kinds = ("Runs", "a Comparison", "a data frame", "a Picture", "a text", "a Panel")
        raise UsageError.unknown("thing to show", type(frame).__name__, kinds)
    return Shown(*tabled(frame))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _is_in_jupyter() -> bool:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None
