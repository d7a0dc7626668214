"""Notebooks that a kernel executed: reports of Runs, lessons in place, and nothing of this machine left in them."""

import ast
import json
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labkit import cli
from labkit.core.errors import LabkitError, Unavailable, UsageError
from labkit.core.paths import home
from labkit.runner.store import FILE_NAME, Store
from labkit.ui import document, executed, jupyter
from labkit.ui.executed import IGNORE_TAG, execute, strip
from labkit.ui.notebooks import lessons


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two lessons that were never executed."""
    for name, text in (("00_first", "print('two:', 1 + 1)"), ("01_second", "import os; os.environ['LABKIT_HOME']")):
        cells = [new_markdown_cell(f"# {name}", id="title"), new_code_cell(text, id="claim")]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    return tmp_path


def command(*arguments: object) -> int:
    return cli.main(["notebooks", *map(str, arguments)])


def outputs(path: Path) -> list[dict[str, object]]:
    return [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", ())]


def test_a_report_is_an_executed_notebook_that_loads_its_runs_by_id(runs, tmp_path: Path) -> None:
    path = tmp_path / "report.ipynb"
    with Store(home() / FILE_NAME) as store:
        for run in runs:
            store.add(run)
    ids = [argument for run in runs for argument in ("--run", run.id)]
    assert cli.main(["report", *ids, "--out", str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code] == ["runs", "verdicts", "charts", "why"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert all(run.id in code[0].source for run in runs)
    shown = [cell.outputs[0].data for cell in code[1:]]
    assert all(set(data) == {"text/plain", "text/html"} for data in shown)
    assert "is faster than the baseline" in shown[0]["text/plain"]
    assert shown[1]["text/html"].count("<figure>") == len(runs)
    assert "reading weights" in shown[2]["text/plain"]
    assert all("/labkit-report-" not in text for data in shown for text in data.values())


def test_a_report_of_runs_that_no_history_holds_is_written_all_the_same(make, tmp_path: Path) -> None:
    path = tmp_path / "report.ipynb"
    document.write_report([make("kv_cache", group="unknown")], (), path, "ipynb")
    assert "kv_cache" in path.read_text()


def test_what_runs_are_called_is_neither_code_nor_markup_of_their_report(make) -> None:
    id, name = '"]; import os; os.abort(); ids = ["\\', "<img src=x> [a](b) *c*"
    title, code, *_ = executed._report([make(id=id, model={"name": name})])["cells"]
    literals = [node for node in ast.walk(ast.parse(code["source"])) if isinstance(node, ast.List)]
    assert [ast.literal_eval(one) for one in literals] == [[id]]
    assert "\\<img src=x> \\[a\\](b) \\*c\\*" in title["source"]


def test_without_the_extra_nothing_is_measured_and_the_remedy_is_named(monkeypatch) -> None:
    monkeypatch.setattr(jupyter, "find_spec", lambda name: None if name == "nbclient" else find_spec(name))
    with pytest.raises(Unavailable, match=r"not installed here: nbclient; .* pip install 'labkit\[notebooks\]'"):
        document.report_kind(Path("report.ipynb"))


def test_lessons_are_executed_in_place_with_a_history_of_their_own(folder: Path, capsys) -> None:
    assert command("--folder", folder) == 0
    assert "cell 'claim' said '', now 'two: 2\\n'" in capsys.readouterr().err
    first, second = (folder / f"{name}.ipynb" for name in ("00_first", "01_second"))
    assert outputs(first) == [{"name": "stdout", "output_type": "stream", "text": ["two: 2\n"]}]
    assert outputs(second)[0]["data"] == {"text/plain": ["'$LABKIT_HOME'"]}
    before = first.read_bytes(), second.read_bytes()
    assert command("--folder", folder) == command("--check", "--folder", folder) == 0
    assert (first.read_bytes(), second.read_bytes()) == before


def test_a_check_writes_nothing(folder: Path) -> None:
    before = (folder / "00_first.ipynb").read_bytes()
    assert command("00", "--check", "--folder", folder) == 1
    assert (folder / "00_first.ipynb").read_bytes() == before


def test_a_cell_that_raises_is_one_line_with_the_notebook_s_name(folder: Path, capsys) -> None:
    path = folder / "00_first.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0", id="fails")]), path)
    assert command("00", "--folder", folder) == 1
    assert capsys.readouterr().err == f"labkit: {path}: cell 'fails' raised ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize("action", [["--links"], ["--gallery", "gallery.md"], ["--check"]])
@pytest.mark.parametrize(
    "content",
    [b"\xff", b"[]", b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}', b"[" * 100_000, None],
)
def test_a_file_that_is_no_notebook_is_one_line(
    action: list[str], content: bytes | None, folder: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(folder)
    (folder / "00_first.ipynb").unlink()
    if content is None:
        (folder / "00_first.ipynb").mkdir()
    else:
        (folder / "00_first.ipynb").write_bytes(content)
    assert command("00", "--folder", folder, *action) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"labkit: {folder / '00_first.ipynb'}: a notebook was asked for; ")
    assert error.count("\n") == 1


def test_a_notebook_without_a_heading_has_no_links(folder: Path, capsys) -> None:
    nbformat.write(new_notebook(), folder / "00_first.ipynb")
    assert command("00", "--folder", folder, "--links") == 2
    assert "it has none; begin its first cell with `# `" in capsys.readouterr().err


def test_lessons_are_named_by_the_beginning_of_their_names(folder: Path) -> None:
    assert [path.stem for path in lessons(folder)] == ["00_first", "01_second"]
    assert [path.stem for path in lessons(folder, ["01"])] == ["01_second"]
    with pytest.raises(UsageError, match="unknown notebook '02'; allowed: 00_first, 01_second"):
        lessons(folder, ["02"])
    with pytest.raises(UsageError, match="there are none; call this in a checkout or give --folder"):
        lessons(folder / "nowhere")


def test_a_cell_that_takes_too_long_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(executed, "CELL_TIMEOUT_S", 1)
    notebook = new_notebook(cells=[new_code_cell("import time; time.sleep(60)", id="sleeps")])
    with pytest.raises(LabkitError, match="ran for longer than 1 s"):
        execute(notebook, folder=tmp_path, home=tmp_path)


def test_stripping_keeps_tags_text_and_pictures() -> None:
    picture = "data:image/png;base64,/home/me"
    data = {
        "text/html": f"<img src='{picture}'> /home/me/x",
        "text/plain": "VBox(children=(HTML(value='/home/me')))",
        "application/vnd.jupyter.widget-view+json": {"model_id": 1},
    }
    cell = new_code_cell("pass", id="one", metadata={"tags": [IGNORE_TAG], "execution": {"started": "now"}})
    cell.outputs = [new_output("display_data", data, metadata={"isolated": True})]
    notebook = new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    strip(notebook, {"/home/me": "~"})
    assert cell.metadata == {"tags": [IGNORE_TAG]}
    assert cell.outputs[0].metadata == {}
    assert cell.outputs[0].data == {
        "text/html": f"<img src='{picture}'> ~/x",
        "text/plain": "widgets: run this cell to use them",
    }
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
