"""Notebooks executed by a kernel of their own: outputs in, and nothing kept of the machine's paths or widgets."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from labkit.core.errors import LabkitError, UsageError
from labkit.core.run import Run
from labkit.runner.store import FILE_NAME, Store
from labkit.ui import prose
from labkit.ui.jupyter import require_jupyter
from labkit.ui.language import tr
from labkit.ui.markdown import escaped
from labkit.ui.report import chapters

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TIMEOUT_S = 120
IGNORE_TAG = "nbval-ignore-output"

_WIDGET = "application/vnd.jupyter.widget-view+json"  # means nothing without the kernel that made it
_PICTURE = r"data:image/png;base64,[A-Za-z0-9+/=]*"
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: "NotebookNode", *, folder: Path, home: Path) -> None:
    """Run every cell in a fresh kernel whose history is `home`, and put the outputs, stripped, in the notebook.

    Raises:
        LabkitError: a cell raised, or ran for longer than two minutes.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # else every kernel says that loopback is not encrypted
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(env={**os.environ, "LABKIT_HOME": str(home), "IPYTHONDIR": str(home / "ipython")})
    except CellExecutionError as error:
        raise LabkitError(f"cell {_failed(notebook)!r} raised {error.ename}: {error.evalue}") from None
    except CellTimeoutError:
        raise LabkitError(f"a cell of the notebook ran for longer than {CELL_TIMEOUT_S} s; give it less work") from None
    except DeadKernelError:
        raise LabkitError("the notebook's kernel died before its last cell; see its messages above") from None
    strip(notebook, {str(home): "$LABKIT_HOME", str(folder.resolve().parent): "..", str(Path.home()): "~"})


def _failed(notebook: "NotebookNode") -> str:
    """Id of the cell that raised."""
    return next(str(cell.id) for cell in notebook.cells if any("ename" in output for output in cell.get("outputs", ())))


def strip(notebook: "NotebookNode", paths: Mapping[str, str]) -> None:
    """Leave tags, text, HTML and pictures; drop other metadata and widget views, and give `paths` their short names."""
    notebook.metadata.clear()
    notebook.metadata.update(_METADATA)
    for cell in notebook.cells:
        cell["metadata"] = {name: kept for name, kept in cell.metadata.items() if name == "tags"}
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output["metadata"] = {}
            fields = output.get("data", output)
            if fields.pop(_WIDGET, None):
                fields["text/plain"] = tr("widgets: run this cell to use them")
            for name, value in fields.items():
                if isinstance(value, str):
                    fields[name] = _shortened(value, paths)


def executed_report(runs: Sequence[Run], path: Path) -> None:
    """Write a report of these Runs as a notebook that loads them from the history, executed.

    The kernel that makes it sees a history of just these Runs; whoever runs it again uses the one under LABKIT_HOME.

    Raises:
        Unavailable: the extra `notebooks` is missing. LabkitError: a cell failed, or the file cannot be written.
    """
    require_jupyter()
    from labkit.ui.document import write_text

    notebook = parsed(json.dumps(_report(runs)))
    with TemporaryDirectory(prefix="labkit-report-") as home:
        with Store(Path(home) / FILE_NAME) as store:
            for run in runs:
                store.add(run)
        execute(notebook, folder=Path(home), home=Path(home))
    write_text(serialized(notebook), str(path))


def parsed(text: str | bytes) -> "NotebookNode":
    """A notebook from its JSON.

    Raises:
        UsageError: the text is no notebook.
    """
    import nbformat

    try:
        notebook: NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
        nbformat.validate(notebook)
    # what holds something else than cells fails in many ways on the way to the validation
    except (ValueError, TypeError, AttributeError, RecursionError, nbformat.ValidationError) as error:
        raise UsageError(f"a notebook was asked for; the file holds none: {str(error).splitlines()[0]}") from None
    return notebook


def serialized(notebook: "NotebookNode") -> str:
    """A notebook as the JSON that is committed: equal notebooks give equal text."""
    import nbformat

    return f"{nbformat.writes(notebook)}\n"  # type: ignore[no-untyped-call]


def _report(runs: Sequence[Run]) -> dict[str, object]:
    ids = "".join(f"    {run.id!r},\n" for run in runs)  # as literals: the cell is executed
    imports = "from labkit.ui.history import stored\nfrom labkit.ui.show import charts, show, verdicts, why\n"
    titles = "\n".join(f"- {escaped(prose.title(group))}" for group, _ in chapters(runs, ()))
    cells = [
        _markdown("title", f"# {tr('labkit report')}\n\n{titles}"),
        _code("runs", f"{imports}\nids = [\n{ids}]\nruns = stored(ids, is_last=False)", []),
    ]
    for name, title in (("verdicts", "Verdict"), ("charts", "Pictures"), ("why", "Why")):
        cells.append(_markdown(f"{name}-title", f"## {tr(title)}"))
        cells.append(_code(name, f"show({name}(runs))", [IGNORE_TAG]))
    return {"cells": cells, "metadata": _METADATA, "nbformat": 4, "nbformat_minor": 5}


def _markdown(id: str, source: str) -> dict[str, object]:
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}


def _code(id: str, source: str, tags: Sequence[str]) -> dict[str, object]:
    metadata = {"tags": tags} if tags else {}
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": id,
        "metadata": metadata,
        "outputs": [],
        "source": source,
    }


def _shortened(value: str, paths: Mapping[str, str]) -> str:
    # pictures are matched first, so that nothing in their base64 is taken for a path
    pattern = "|".join((f"(?:{_PICTURE})", *(re.escape(path) for path in paths if path != os.sep)))
    return re.sub(pattern, lambda match: paths.get(match[0], match[0]), value)
