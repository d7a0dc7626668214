"""The committed gallery is what the committed lessons yield, and nothing out of an output gets beyond its place."""

import base64
import re
from html import escape
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labkit import cli
from labkit.core.errors import UsageError
from labkit.ui import gallery
from labkit.ui.notebooks import lessons

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gallery.md"
LESSONS = lessons(ROOT / "notebooks")
PNG = b"\x89PNG\r\n\x1a\n"
LINK = re.compile(r"(?<!\\)\]\(([^)]+)\)")
PICTURE = f'<img src="data:image/png;base64,{base64.b64encode(PNG).decode()}" alt="{{alt}}">'
BASELINE = '<li class="baseline"><code>kv_cache</code> (the baseline): 9 tok/s.</li>'
FASTER = '<li class="faster"><code>compile</code> is faster than the baseline.</li>'
TABLE = (
    "<table{css}><tr><th>recipe</th><th>verdict</th></tr><tr><th>a|b</th><td>2×<small>[1, 3]</small></td></tr></table>"
)
RESULTS = TABLE.format(css=' class="results judged"')


def lesson(path: Path, *cells: str) -> Path:
    """A lesson of these cells, each with HTML as its output."""
    shown = [
        new_code_cell(outputs=[new_output("display_data", data={"text/html": html})], id=f"cell-{index}")
        for index, html in enumerate(cells)
    ]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 07 · A *lesson*", id="title"), *shown]), path)
    return path


def test_the_committed_gallery_is_what_the_committed_lessons_yield() -> None:
    assert gallery.renew(LESSONS, PAGE, is_check=True) == ()


def test_every_lesson_has_one_entry_and_every_picture_is_shown() -> None:
    text = PAGE.read_text()
    linked = LINK.findall(text)
    assert [link for link in linked if link.endswith(".ipynb")] == [f"../notebooks/{path.name}" for path in LESSONS]
    assert [link for link in linked if not (PAGE.parent / link).is_file()] == []
    pictures = {PAGE.parent / link for link in linked if link.endswith(".png")}
    assert pictures == set((PAGE.parent / "gallery").iterdir())
    assert text.count("**Found**") == len(LESSONS)


def test_pictures_are_small_and_are_those_of_the_outputs() -> None:
    contents = {path.stem: path.read_bytes() for path in (PAGE.parent / "gallery").iterdir()}
    assert max(map(len, contents.values())) < 80_000
    assert sum(map(len, contents.values())) < 1_000_000
    for path in LESSONS:
        if content := contents.get(path.name[:2]):
            assert content.startswith(PNG)
            assert base64.b64encode(content).decode() in path.read_text()


@pytest.mark.parametrize("document", ["README.md", "README.zh-CN.md", "notebooks/README.md"])
def test_documents_lead_to_the_gallery(document: str) -> None:
    links = LINK.findall((ROOT / document).read_text())
    assert PAGE in [((ROOT / document).parent / link).resolve() for link in links]


def test_the_first_picture_is_shown_with_the_verdict_beside_it(tmp_path: Path) -> None:
    drawn = PICTURE.format(alt="One. Two.") + PICTURE.format(alt="Three.")
    shown = gallery.exhibit(lesson(tmp_path / "07_a.ipynb", RESULTS, f"{BASELINE}{FASTER}{drawn}"))
    assert (shown.alt, shown.png, shown.rows) == ("One. Two.", PNG, ())
    assert (shown.finding, shown.baseline) == ("compile is faster than the baseline.", "kv_cache")


def test_a_picture_without_a_verdict_speaks_for_itself_in_one_sentence(tmp_path: Path) -> None:
    shown = gallery.exhibit(lesson(tmp_path / "07_a.ipynb", PICTURE.format(alt="It gives 1.5 tok/s. And more.")))
    assert (shown.finding, shown.baseline) == ("It gives 1.5 tok/s.", "")


def test_where_nothing_is_drawn_the_table_of_results_is_shown(tmp_path: Path) -> None:
    path = lesson(tmp_path / "07_a.ipynb", TABLE.format(css=""), f"{BASELINE}{FASTER}{RESULTS}")
    assert gallery.exhibit(path).rows == (("recipe", "verdict"), ("a|b", "2× [1, 3]"))
    page = gallery.markdown([gallery.exhibit(path)], tmp_path / "page.md")
    assert "| recipe | verdict |\n| --- | --- |\n| a\\|b | 2× \\[1, 3\\] |\n" in page
    assert page.endswith("**Found**, with kv\\_cache as the baseline: compile is faster than the baseline.\n")


def test_a_recipe_measured_alone_is_told_alone(tmp_path: Path) -> None:
    shown = gallery.exhibit(lesson(tmp_path / "07_a.ipynb", f"{BASELINE}{RESULTS}"))
    assert (shown.finding, shown.baseline) == ("kv_cache (the baseline): 9 tok/s.", "")


def test_the_naive_baseline_is_not_named_twice(tmp_path: Path) -> None:
    naive = BASELINE.replace("kv_cache", "baseline")
    assert gallery.exhibit(lesson(tmp_path / "07_a.ipynb", f"{naive}{FASTER}{RESULTS}")).baseline == ""


def test_words_out_of_outputs_mark_nothing(tmp_path: Path) -> None:
    mistune = pytest.importorskip("mistune", reason="the extra notebooks is not installed")
    words = "a](x) ![b](https://example.org/c.png) <img src=d> *e* _f_ `g` ~~h~~ | &lt; $i$ \\ [j]: k"
    path = lesson(tmp_path / "07_a.ipynb", PICTURE.format(alt=escape(words)))
    page = gallery.markdown([gallery.exhibit(path)], tmp_path / "page.md")
    html = mistune.html(page)
    assert html.count("<img") == 1
    assert f'alt="{escape(words)}"' in html
    assert f"<strong>Found</strong>: {escape(words)}." in html.replace("&#x27;", "'")
    assert ">07 · A *lesson*</a>" in html


def test_a_lesson_that_shows_nothing_is_refused_in_one_line(tmp_path: Path) -> None:
    path = lesson(tmp_path / "07_a.ipynb", "<p>Nothing was measured.</p>", f"{BASELINE}{TABLE.format(css='')}")
    with pytest.raises(UsageError, match=r"hold no picture and no verdict; execute it: labkit notebooks 07_a$"):
        gallery.exhibit(path)


def test_the_command_writes_what_changed_and_a_check_only_names_it(tmp_path: Path, capsys) -> None:
    folder, page = tmp_path / "lessons", tmp_path / "shown.md"
    folder.mkdir()
    lesson(folder / "07_a.ipynb", f"{FASTER}{PICTURE.format(alt='One.')}")
    command = ["notebooks", "--gallery", str(page), "--folder", str(folder)]
    assert cli.main([*command, "--check"]) == 1
    assert list(tmp_path.iterdir()) == [folder]
    assert cli.main(command) == 0
    assert (tmp_path / "shown" / "07.png").read_bytes() == PNG
    assert "](shown/07.png)" in page.read_text()
    assert "](lessons/07_a.ipynb)" in page.read_text()
    capsys.readouterr()
    assert cli.main([*command, "--check"]) == 0
    lesson(folder / "07_a.ipynb", f"{BASELINE}{PICTURE.format(alt='One.')}")
    assert cli.main([*command, "--check"]) == 1
    assert capsys.readouterr().err == f"out of date: {page}\n"


def test_a_page_in_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert (
        cli.main(["notebooks", "--gallery", str(tmp_path / "none" / "page.md"), "--folder", str(ROOT / "notebooks")])
        == 2
    )
