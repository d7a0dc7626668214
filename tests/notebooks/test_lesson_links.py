"""Links below a lesson's introduction: made again without touching what the author wrote or what a cell put out."""

import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labkit import cli
from labkit.core.errors import UsageError
from labkit.ui.executed import parsed
from labkit.ui.lesson_links import links, repository

NAMES = ("00_first", "01_second", "02_third")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A checkout's folder of three lessons; each has an introduction and an output."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in NAMES:
        number, _, word = name.partition("_")
        claim = new_code_cell("print(1)", id="claim", outputs=[new_output("stream", name="stdout", text="1\n")])
        cells = [new_markdown_cell(f"# {number} · The {word} · 课\n\nWhat it is about.", id="title"), claim]
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder


def command(*arguments: object) -> int:
    return cli.main(["notebooks", "--links", *map(str, arguments)])


def first_cell(book: Path, name: str) -> str:
    return str(parsed((book / f"{name}.ipynb").read_text()).cells[0].source)


def test_a_lesson_is_linked_with_the_one_before_and_the_one_after(book: Path) -> None:
    row = links(book / "01_second.ipynb", "").splitlines()[0]
    assert row == (
        "[← 00 The first](00_first.ipynb) | [02 The third →](02_third.ipynb) "
        "| [Solution 答案](solutions/01_second.py) | [Glossary 术语表](../docs/glossary.md)"
    )
    assert "←" not in links(book / "00_first.ipynb", "")
    assert "→" not in links(book / "02_third.ipynb", "")


def test_links_are_written_once_below_what_the_author_wrote_and_outputs_stay(book: Path, capsys) -> None:
    assert command("--folder", book) == 0
    text = first_cell(book, "00_first")
    assert text.startswith("# 00 · The first · 课\n\nWhat it is about.\n\n---\n\n[01 The second →]")
    assert json.loads((book / "00_first.ipynb").read_text())["cells"][1]["outputs"][0]["text"] == ["1\n"]
    assert capsys.readouterr().err.count("wrote") == len(NAMES)
    before = [(book / f"{name}.ipynb").read_bytes() for name in NAMES]
    assert command("--folder", book) == command("--check", "--folder", book) == 0
    assert [(book / f"{name}.ipynb").read_bytes() for name in NAMES] == before


def test_a_check_writes_nothing_and_names_the_lesson_whose_links_are_old(book: Path, capsys) -> None:
    command("--folder", book)
    (book / "02_third.ipynb").rename(book / "02_last.ipynb")
    before = (book / "01_second.ipynb").read_bytes()
    capsys.readouterr()
    assert command("--check", "01", "--folder", book) == 1
    assert capsys.readouterr().err == f"out of date: {book / '01_second.ipynb'}\n"
    assert (book / "01_second.ipynb").read_bytes() == before


def test_a_project_without_an_address_says_how_to_upload(book: Path) -> None:
    assert repository(book.parent) == ""
    text = links(book / "00_first.ipynb", "")
    assert "https://" not in text
    assert "`%pip install labkit-*.whl`" in text


@pytest.mark.parametrize("address", ["https://github.com/owner/name", "https://github.com/owner/name.git"])
def test_a_project_with_an_address_is_opened_and_installed_from_there(book: Path, address: str) -> None:
    (book.parent / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{address}"\n')
    command("--folder", book)
    text = first_cell(book, "00_first")
    colab = "https://colab.research.google.com/github/owner/name/blob/main/notebooks/00_first.ipynb"
    assert f"[Open in Colab 在 Colab 中打开]({colab})" in text
    assert "`%pip install git+https://github.com/owner/name`" in text
    assert "wheel" not in text


def test_an_address_that_colab_cannot_open_is_refused_in_one_line(book: Path) -> None:
    with pytest.raises(UsageError, match=r"repository is 'https://example\.org/name'; Colab opens .*; change it"):
        links(book / "00_first.ipynb", "https://example.org/name")


def test_a_notebook_without_a_heading_is_refused(book: Path, capsys) -> None:
    nbformat.write(new_notebook(cells=[new_markdown_cell("no heading", id="a")]), book / "02_third.ipynb")
    assert command("01", "--folder", book) == 2
    assert "it has none; begin its first cell with `# `" in capsys.readouterr().err
