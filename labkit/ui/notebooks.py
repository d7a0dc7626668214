"""The lessons in notebooks/: found by name, executed again in place, or only checked against what they claim."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from labkit.core.errors import LabkitError, UsageError
from labkit.ui.console import note
from labkit.ui.document import write_text
from labkit.ui.executed import IGNORE_TAG, execute, parsed, serialized
from labkit.ui.jupyter import require_jupyter

if TYPE_CHECKING:
    from nbformat import NotebookNode


def lessons(folder: Path, names: Sequence[str] = ()) -> tuple[Path, ...]:
    """Notebooks of a folder in the order of the book: those whose names begin so, or all.

    Raises:
        UsageError: the folder holds none, or none of that name.
    """
    found = tuple(sorted(folder.glob("*.ipynb")))
    if not found:
        raise UsageError(
            f"notebooks of {str(folder)!r} were asked for; there are none; call this in a checkout or give --folder"
        )
    for name in names:
        if not any(path.name.startswith(name) for path in found):
            raise UsageError.unknown("notebook", name, (path.stem for path in found))
    return tuple(path for path in found if not names or path.name.startswith(tuple(names)))


def read_notebook(path: Path) -> "NotebookNode":
    """The notebook that a file holds.

    Raises:
        UsageError: the file cannot be read, or holds none.
    """
    try:
        return parsed(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: a notebook was asked for; it cannot be read: {error.strerror}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def title(path: Path) -> str:
    """The heading of a lesson, as in `03 · Quantization · 量化`.

    Raises:
        UsageError: the file is no notebook, or does not begin with a heading.
    """
    cells = read_notebook(path).cells
    heading = str(cells[0].source).splitlines()[:1] if cells else []
    if not heading or not heading[0].startswith("# "):
        raise UsageError(f"the heading of {str(path)!r} was asked for; it has none; begin its first cell with `# `")
    return heading[0].removeprefix("# ")


def refresh(paths: Sequence[Path], *, is_check: bool) -> bool:
    """Execute notebooks, in place unless `is_check`; whether every claim came out as it was committed.

    All share one history, in a temporary folder: what a lesson shows depends on nothing that was measured before.

    Raises:
        UsageError: a file is no notebook. Unavailable: the extra `notebooks` is missing. LabkitError: a cell failed, or
        a file cannot be written.
    """
    require_jupyter()
    num_changed = 0
    with TemporaryDirectory(prefix="labkit-notebooks-") as home:
        for path in paths:
            notebook = read_notebook(path)
            before = claims(notebook)
            try:
                execute(notebook, folder=path.parent, home=Path(home))
            except LabkitError as error:
                raise LabkitError(f"{path}: {error}") from None
            if not is_check:
                write_text(serialized(notebook), str(path))
            for change in _changes(before, claims(notebook)):
                num_changed += 1
                note(f"{path}: {change}")
            note(f"{'checked' if is_check else 'executed'} {path}")
    return num_changed == 0


def claims(notebook: "NotebookNode") -> dict[str, str]:
    """What each cell printed whose output is compared strictly, by cell id."""
    return {
        cell.id: "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code" and IGNORE_TAG not in cell.metadata.get("tags", ())
    }


def _changes(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for id, text in after.items():
        if text != before[id]:
            yield f"cell {id!r} said {before[id]!r}, now {text!r}"
