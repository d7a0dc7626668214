"""The terminal: tables on stdout, progress on stderr, so that what is piped holds results only."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labkit.core.run import Run
from labkit.ui import prose
from labkit.ui.tables import Line, results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from labkit.bench.comparison import Comparison

_PIPED_WIDTH = 160
_COLORS = {"faster": "green", "slower": "red", "invalid": "red"}


def note(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{' '.join(text.split())}\n")


def show_results(runs: Sequence[Run], comparison: "Comparison | None", *, is_stdout: bool = True) -> None:
    """The table of a session, what is wrong with its Runs, and the verdicts in words."""
    from rich.text import Text

    table = results(runs, comparison)
    console = _console(is_stdout=is_stdout)
    grid = _grid(prose.title(runs))
    grid.add_column("recipe", overflow="fold")
    for column in table.columns:
        grid.add_column(column.title, justify="right")
    grid.add_column("verdict")
    for line in table.lines:
        struck = "dim strike" if line.faults else ""
        cells = (Text(cell.text, style=struck) for cell in line.cells)  # intervals are in the report
        grid.add_row(Text(line.name), *cells, _verdict(line))
    console.print(grid)
    for sentence in prose.verdicts(runs, comparison):
        console.print(
            Text(f"• {sentence.text}", style=_COLORS.get(sentence.kind, "")), soft_wrap=not console.is_terminal
        )


def show_rows(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table on stdout."""
    from rich.text import Text

    grid = _grid(title)
    for column in head:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    _console(is_stdout=True).print(grid)


def show_facts(title: str, facts: Mapping[str, str]) -> None:
    """Names and values, aligned, on stdout."""
    show_rows(title, ("", ""), list(facts.items()))


def show_paragraphs(title: str, paragraphs: Sequence[str], *, is_stdout: bool = True) -> None:
    """A title and sentences, wrapped only for a terminal."""
    console = _console(is_stdout=is_stdout)
    console.print(title)
    for paragraph in paragraphs:
        console.print(f"• {paragraph}", soft_wrap=not console.is_terminal)


@contextmanager
def progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr; yields the function that moves it to a fraction (0 … 1) and says what is being done."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.fields[title]}", markup=False), BarColumn(), TaskProgressColumn())
    about = (TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    console = _console(is_stdout=False)
    is_silent = not console.is_terminal  # a log wants errors and notes, no bar
    # drawn when it is told something, between samples: a thread that redraws would slow down what is measured
    with Progress(*columns, *about, console=console, transient=True, disable=is_silent, auto_refresh=False) as bar:
        task = bar.add_task("", total=1.0, title=title)
        yield lambda fraction, text: bar.update(task, completed=fraction, description=text, refresh=True)


def _grid(title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _console(*, is_stdout: bool) -> "Console":
    from rich.console import Console

    console = Console(stderr=not is_stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH  # a file has no width of its own, and a log that is cut loses figures
    return console


def _verdict(line: Line) -> "Text":
    from rich.text import Text

    cell = line.verdict.cell
    return Text(cell.line, style=_COLORS.get(line.verdict.kind, ""))
