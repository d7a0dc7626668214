"""Every committed lesson is built alike, was executed in order, and claims something that pytest can hold it to.

`make test-full` executes them too, `make test` some of them: nbval compares what their cells print.
"""

import ast
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.ui import lesson_links
from labkit.ui.executed import IGNORE_TAG

FOLDER = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
ANATOMY = ["Question", "Setup", "Idea", "Predict", "Toggle", "Measure", "Read", "Answer", "Exercises"]
MAX_LINES = 12
PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|opt)/\S+|\b[A-Z]:\\\\")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
CHINESE = re.compile(r"[\u4e00-\u9fff]")

pytestmark = pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])


def cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def is_ignored(cell: dict[str, Any]) -> bool:
    return IGNORE_TAG in cell["metadata"].get("tags", ())


def section(path: Path, title: str) -> str:
    """Text from this heading to the next one."""
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def is_show(statement: ast.stmt) -> bool:
    """Whether the statement is a call of `show` and nothing else."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "show"


def names_called(cell: dict[str, Any]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source(cell))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def test_it_is_a_valid_notebook_with_ids_of_its_own(path: Path) -> None:
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_headings_follow_the_anatomy_of_a_lesson(path: Path) -> None:
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ANATOMY


def test_its_first_cell_leads_to_its_neighbours_its_solution_and_the_glossary(path: Path) -> None:
    assert lesson_links.renew([path], is_check=True) == ()
    here = LESSONS.index(path)
    neighbours = [other.name for other in (*LESSONS[max(here - 1, 0) : here], *LESSONS[here + 1 : here + 2])]
    found = LINK.findall(source(cells(path, "markdown")[0]))
    assert found == [*neighbours, f"solutions/{path.stem}.py", "../docs/glossary.md"]


def test_every_link_leads_to_a_file(path: Path) -> None:
    found = [link for cell in cells(path, "markdown") for link in LINK.findall(source(cell))]
    assert [link for link in found if not (path.parent / link).is_file()] == []


@pytest.mark.parametrize("title", ["Question", "Answer"])
def test_question_and_answer_stand_in_both_languages(path: Path, title: str) -> None:
    text = section(path, title)
    assert CHINESE.search(text)
    assert re.search(r"[A-Za-z]{4,} [a-z]{2,} ", text)


def test_chinese_sentences_run_on_where_a_line_would_end_within_them(path: Path) -> None:
    text = "\n\n".join(source(cell) for cell in cells(path, "markdown")[1:])
    assert re.findall(r"[\u3000-\u9fff\uff00-\uffef]\n[\u3000-\u9fff\uff00-\uffef]", text) == []


def test_it_was_executed_from_top_to_bottom_without_an_error(path: Path) -> None:
    code = cells(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []


def test_no_run_that_it_shows_was_refused(path: Path) -> None:
    shown = [output for cell in cells(path) if is_ignored(cell) for output in cell["outputs"]]
    texts = ["".join(output.get("data", {}).get("text/plain", ())) for output in shown]
    assert [text for text in texts if "INVALID" in text] == [], "measure again on a calm machine"


def test_what_is_measured_is_shown_and_only_that_is_not_compared(path: Path) -> None:
    for cell in cells(path):
        if is_ignored(cell):
            assert all(map(is_show, ast.parse(source(cell)).body)), source(cell)
        else:
            assert "show" not in names_called(cell), source(cell)


def test_it_makes_at_least_one_claim_that_is_compared(path: Path) -> None:
    printed = [
        cell["id"]
        for cell in cells(path)
        if not is_ignored(cell) and any(output.get("name") == "stdout" for output in cell["outputs"])
    ]
    assert printed


def test_code_cells_are_short_and_define_no_class(path: Path) -> None:
    for cell in cells(path):
        assert len(source(cell).splitlines()) <= MAX_LINES, source(cell)
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source(cell))))


def test_it_keeps_no_widget_no_timing_and_no_path_of_the_machine_it_ran_on(path: Path) -> None:
    fields = json.loads(path.read_text())
    assert set(fields["metadata"]) == {"kernelspec", "language_info"}
    assert all(set(cell["metadata"]) <= {"tags"} for cell in fields["cells"])
    text = PICTURE.sub("", path.read_text())
    assert "widget-view" not in text
    assert PATH.findall(text) == []


def test_pictures_have_words(path: Path) -> None:
    assert len(re.findall(r"<img (?![^>]*alt=)", path.read_text())) == 0


def test_every_exercise_has_a_solution_that_its_check_accepts(path: Path) -> None:
    solution = runpy.run_path(str(FOLDER / "solutions" / f"{path.stem}.py"))
    exercises = [cell for cell in cells(path) if cell["id"].startswith("exercise-")]
    assert len(exercises) == 3
    for cell in exercises:
        name = source(cell).partition(" = None")[0]
        assert name in solution
