"""What a cell shows: safe HTML for either theme, the same as plain text, and one line for what cannot be shown."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import IPython.display
import pandas as pd
import pytest

from labkit.core.errors import UsageError
from labkit.core.paths import home
from labkit.optimizations.kv_cache import KvCache
from labkit.runner.store import FILE_NAME, Store
from labkit.ui import show as showing
from labkit.ui.plots import throughput
from labkit.ui.show import Shown, charts, rendered, show, source, verdicts, why

HOSTILE = "<script>alert(1)</script>"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def bundle(thing: object) -> dict[str, str]:
    shown = rendered(thing)
    assert isinstance(shown, Shown)
    return shown._repr_mimebundle_()


def test_runs_are_shown_with_verdicts_table_pictures_and_reasons(runs) -> None:
    forms = bundle(runs)
    assert [forms["text/html"].count(mark) for mark in ('class="verdicts"', 'class="results"')] == [1, 1]
    assert "<h3>Why</h3>" in forms["text/html"]
    assert "• kv_cache is faster than the baseline" in forms["text/plain"]
    assert "Throughput: " in forms["text/plain"]


def test_the_plain_table_is_aligned_and_holds_every_run(runs) -> None:
    lines = verdicts(runs).plain.splitlines()
    (head,) = [line for line in lines if line.startswith("recipe ")]
    table = lines[lines.index(head) + 1 :]
    assert len(table) == len(runs)
    assert table[-1][head.index("verdict") :].startswith("INVALID contended")


def test_each_picture_has_words_a_table_and_a_twin_that_only_the_dark_theme_shows(runs) -> None:
    html = bundle(charts(runs))["text/html"]
    images = Tags(html).named("img")
    assert {image["class"] for image in images} == {"day", "night"}
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in images)
    assert all((image.get("style") == "display: none") == (image["class"] == "night") for image in images)
    assert '[data-jp-theme-light="false"] .labkit img.night { display: block !important; }' in html
    assert "prefers-color-scheme" not in html
    assert html.count("The same as a table") == len(images) / 2


def test_pictures_are_chosen_by_name(runs) -> None:
    assert bundle(charts(runs, "memory"))["text/html"].count("<figure>") == 1


def test_a_comparison_is_shown_with_the_runs_that_the_history_has(runs, comparison) -> None:
    with Store(home() / FILE_NAME) as store:
        for run in runs:
            store.add(run)
    assert bundle(comparison)["text/html"].count("<figure>") == len(runs)


def test_a_comparison_of_runs_that_are_not_in_the_history_is_its_table(comparison, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    forms = bundle(comparison)
    assert "<table" in forms["text/html"]
    assert "faster" in forms["text/plain"]


def test_one_run_is_shown_without_a_verdict(make) -> None:
    text = bundle(make("kv_cache"))["text/plain"]
    assert text.startswith("• kv_cache: ")
    assert "baseline" not in text


def test_sessions_are_not_compared_with_each_other(make) -> None:
    runs = [make("", group="one"), make("kv_cache", itl_s=0.005, group="two")]
    assert "faster" not in bundle(runs)["text/plain"]


def test_a_picture_alone_is_an_image_with_its_finding(runs) -> None:
    picture = throughput(runs, None)
    assert picture is not None
    forms = bundle(picture)
    assert forms["text/plain"] == f"Throughput: {picture.alt}"
    (image,) = Tags(forms["text/html"]).named("img")
    assert image["alt"] == picture.alt


def test_a_frame_is_a_table_with_three_digits_and_none_for_what_is_missing() -> None:
    frame = pd.DataFrame({"recipe": ["", HOSTILE], "rate": [123.456, None]})
    forms = bundle(frame)
    assert HOSTILE not in forms["text/html"]
    assert "123" in forms["text/plain"]
    assert "123.4" not in forms["text/plain"]
    assert "–" in forms["text/html"]


def test_text_is_escaped() -> None:
    forms = bundle(HOSTILE)
    assert forms["text/plain"] == HOSTILE
    assert HOSTILE not in forms["text/html"]


def test_every_value_of_a_run_is_escaped(make) -> None:
    hostile = make("kv_cache", error=HOSTILE, status="failed", model={"name": HOSTILE}, device=HOSTILE)
    assert HOSTILE not in bundle([hostile, make("")])["text/html"]


def test_the_reasons_are_those_of_the_report(runs) -> None:
    assert "reading weights" in why(runs).plain


def test_source_is_the_package_s_own() -> None:
    forms = bundle(source(KvCache))
    assert "class KvCache(Optimization):" in forms["text/plain"]
    assert "labkit.optimizations.kv_cache.KvCache" in forms["text/html"]


def test_the_source_of_a_method_starts_at_the_margin() -> None:
    assert bundle(source(KvCache.cost))["text/plain"].startswith("def cost(")


@pytest.mark.parametrize(
    ("frame", "css"),
    [
        (pd.DataFrame({"placement": ["CPU", "GPU"], "ms": [1.0, 2.0]}), "dataframe named"),
        (pd.DataFrame({"layers": [1, 2], "ms": [1.0, 2.0]}), "dataframe counted"),
        (pd.DataFrame({"ms": [1.0, 2.0]}, index=["CPU", "GPU"]), "dataframe"),
    ],
)
def test_a_frame_says_whether_its_first_column_holds_names_or_numbers(frame: pd.DataFrame, css: str) -> None:
    assert Tags(bundle(frame)["text/html"]).named("table") == [{"class": css}]


def test_whole_numbers_have_their_thousands_set_apart_and_an_index_has_its_name_in_the_corner() -> None:
    shown = bundle(pd.DataFrame({"texts": [4073]}, index=pd.Index(["plain"], name="kind")))
    assert shown["text/plain"].split() == ["kind", "texts", "plain", "4,073"]
    assert len(Tags(shown["text/html"]).named("tr")) == 2


@pytest.mark.parametrize("method", ["_ipython_display_", "_repr_mimebundle_"])
def test_what_displays_itself_is_left_alone(method: str) -> None:
    panel = type("Panel", (), {method: lambda self: None})()
    assert rendered(panel) is panel


@pytest.mark.parametrize("thing", [7, (), [1, 2], None])
def test_what_cannot_be_shown_is_one_line(thing: object) -> None:
    with pytest.raises(UsageError, match=r"unknown thing to show .*; allowed: Runs, a Comparison"):
        rendered(thing)


def test_outside_jupyter_the_plain_text_is_printed(capsys) -> None:
    show("first", "second")
    assert capsys.readouterr().out == "first\nsecond\n"


def test_in_jupyter_each_thing_is_displayed(monkeypatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(IPython.display, "display", seen.append)
    monkeypatch.setattr(showing, "_is_in_jupyter", lambda: True)
    show("first", "second")
    assert [repr(shown) for shown in seen] == ["first", "second"]


def test_the_style_sheet_touches_nothing_outside_what_is_shown() -> None:
    selectors = re.findall(r"^([^{]+)\{", showing.CSS, re.MULTILINE)
    assert selectors
    assert all(".labkit" in part for selector in selectors for part in selector.split(","))


def test_importing_it_needs_neither_jupyter_nor_a_heavy_package() -> None:
    heavy = "{'IPython', 'ipywidgets', 'pandas', 'matplotlib', 'torch', 'nbformat', 'nbclient'}"
    code = f"import sys, labkit.ui.show; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
