"""Gallery: of each lesson one picture and one sentence of what it found, read from the outputs it has already.

The picture is the first that the lesson draws; where it draws none, its first table of results. The sentence is the
first verdict of the same cell, or else what the picture says of itself. Nothing is executed and nothing drawn again.
"""

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.errors import LabkitError, UsageError
from labkit.ui.document import check_target
from labkit.ui.jupyter import require_jupyter
from labkit.ui.markdown import escaped, table
from labkit.ui.notebooks import read_notebook, title

if TYPE_CHECKING:
    from nbformat import NotebookNode

_HEAD = """# Gallery · 画廊

Made by `labkit notebooks --gallery docs/gallery.md` from the outputs that the lessons are committed with. Every figure
is of the machine on which a lesson was executed last; yours will give others.

由 `labkit notebooks --gallery docs/gallery.md` 从各课随仓库提交的输出生成。数字都来自上一次执行该课的机器，
换一台机器会有所不同。"""
_NAIVE = "baseline"  # what a Run calls the empty recipe
_PNG = "data:image/png;base64,"


@dataclass(frozen=True)
class Exhibit:
    """What a lesson has to show: a picture and its words or, where `png` is empty, the rows of a table.

    `baseline` is the recipe that the finding compares with, '' where it compares with none or with the naive baseline.
    """

    path: Path
    title: str
    finding: str
    baseline: str = ""
    alt: str = ""
    png: bytes = b""
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def number(self) -> str:
        """What the lesson's name begins with, as in `03`."""
        return self.path.stem.partition("_")[0]


def renew(paths: Sequence[Path], page: Path, *, is_check: bool) -> tuple[Path, ...]:
    """Files of the gallery of these lessons that are not what they should be; unless `is_check` they are written.

    They are the page and, in a folder of the page's name, a picture a lesson.

    Raises:
        UsageError: a lesson has nothing to show, or the page's folder does not exist. LabkitError: writing failed.
        Unavailable: the extra `notebooks` is missing.
    """
    require_jupyter("reading a notebook", ("nbformat",))
    check_target(str(page))
    exhibits = tuple(map(exhibit, paths))
    files = {_picture(shown, page): shown.png for shown in exhibits if shown.png}
    files[page] = markdown(exhibits, page).encode()
    changed = tuple(path for path, content in files.items() if not path.is_file() or path.read_bytes() != content)
    for path in () if is_check else changed:
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(files[path])
        except OSError as error:
            raise LabkitError(f"{str(path)!r} cannot be written: {error.strerror}; name another page") from None
    return changed


def markdown(exhibits: Sequence[Exhibit], page: Path) -> str:
    """The page. Words out of a lesson are escaped; links lead from the page's folder to lessons and pictures."""
    return "\n\n".join([_HEAD, *(part for shown in exhibits for part in _entry(shown, page))]) + "\n"


def exhibit(path: Path) -> Exhibit:
    """What an executed lesson shows.

    Raises:
        UsageError: it has neither a picture nor a table of results, or no heading.
    """
    heading = title(path)
    cells = [_read(cell) for cell in read_notebook(path).cells if cell.cell_type == "code"]
    for cell in cells:
        if cell.pictures:
            source, alt = cell.pictures[0]
            png = base64.b64decode(source.removeprefix(_PNG), validate=True)
            return Exhibit(path, heading, cell.verdict or _first_sentence(alt), cell.baseline, alt=alt, png=png)
    for cell in cells:
        if cell.tables and cell.verdict:
            return Exhibit(path, heading, cell.verdict, cell.baseline, rows=tuple(map(tuple, cell.tables[0])))
    raise UsageError(
        f"something to show of {str(path)!r} was asked for; its outputs hold no picture and no verdict; "
        f"execute it: labkit notebooks {path.stem}"
    )


class _Outputs(HTMLParser):
    """Reads what `labkit.ui.show` made: pictures, verdicts, tables of results."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[str, str]] = []  # address and words
        self.tables: list[list[list[str]]] = []
        self._verdicts: list[str] = []  # about other recipes than the baseline
        self._alone: list[str] = []  # what is said of the baseline itself
        self._named: list[str] = []  # recipes that are a baseline
        self._is_in_results = False
        self._text = ""
        self._css = ""

    @property
    def verdict(self) -> str:
        """The first about another recipe than the baseline, else what is said of that, else ''."""
        return next(iter([*self._verdicts, *self._alone]), "")

    @property
    def baseline(self) -> str:
        """The recipe that the verdict compares with, as far as it has a name."""
        return next((name for name in self._named if self._verdicts and name != _NAIVE), "")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "img" and given.get("src", "").startswith(_PNG):
            self.pictures.append((given["src"], given.get("alt", "")))
        elif tag == "table":
            self._is_in_results = "results" in given.get("class", "").split()
            self.tables += [[]] if self._is_in_results else []
        elif tag == "tr" and self._is_in_results:
            self.tables[-1].append([])
        elif tag in ("th", "td", "li"):
            self._text, self._css = "", given.get("class", "")
        elif tag == "small":
            self._text += " "

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._is_in_results = False
        elif tag in ("th", "td") and self._is_in_results:
            self.tables[-1][-1].append(self._text)
        elif tag == "code" and self._css == "baseline":
            self._named.append(self._text)
        elif tag == "li":
            (self._alone if self._css == "baseline" else self._verdicts).append(self._text)
            self._css = ""


def _read(cell: "NotebookNode") -> _Outputs:
    """All HTML below a cell."""
    outputs = _Outputs()
    for output in cell.outputs:
        outputs.feed(output.get("data", {}).get("text/html", ""))
    outputs.close()
    return outputs


def _entry(shown: Exhibit, page: Path) -> Iterator[str]:
    lesson = os.path.relpath(shown.path, page.parent)
    yield f"## [{escaped(shown.title)}]({Path(lesson).as_posix()})"
    if shown.png:
        yield f"![{escaped(shown.alt)}]({_picture(shown, page).relative_to(page.parent).as_posix()})"
    else:
        yield table([list(map(escaped, row)) for row in shown.rows], num_left=2)
    beside = f", with {escaped(shown.baseline)} as the baseline" if shown.baseline else ""
    yield f"**Found**{beside}: {escaped(shown.finding)}"


def _picture(shown: Exhibit, page: Path) -> Path:
    return page.with_suffix("") / f"{shown.number}.png"


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".") + "."
