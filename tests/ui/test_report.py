import csv
import io
import re
from html.parser import HTMLParser

import pytest

from labkit.bench.comparison import compare
from labkit.core.run import Fault
from labkit.ui import report

HOSTILE = "<script>alert(1)</script>\" onload='x'"


class Page(HTMLParser):
    """Tags with their attributes, and whether they nest properly."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self._open = [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(runs, comparison):
    return report.html(runs, comparison)


def test_the_page_asks_for_nothing_outside_itself(page):
    parsed = Page(page)
    for _, attributes in parsed.tags:
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not parsed.attributes("script")
    assert "url(" not in page
    assert "@import" not in page


def test_the_verdict_stands_before_the_table_and_the_table_before_the_pictures(page):
    places = [page.index(mark) for mark in ("is faster than the baseline", "<table", "<figure")]
    assert places == sorted(places)


def test_every_picture_has_words_a_dark_twin_and_a_table(page):
    parsed = Page(page)
    images = parsed.attributes("img")
    assert len(images) == 5
    assert all(len(image["alt"]) > 20 for image in images)
    assert all("dark" in source["media"] for source in parsed.attributes("source"))
    assert page.count("The same as a table") == len(images)


def test_an_invalid_run_is_struck_out_with_its_reason_and_remedy(page):
    row, costs = re.findall(r'<tr class="invalid">.*?</tr>', page)[:2]
    assert row.count("<s>") == 6
    assert costs.count("<s>") == 3
    assert "INVALID(contended): 14 % of core time went to other processes" in page
    assert "stop them and measure again" in page


def test_the_lessons_machine_and_run_ids_are_told(page, runs):
    assert "Pope et al. 2022" in page
    assert "Example CPU" in page
    assert "32.0 KiB" in page
    assert all(run.id in page for run in runs)


def test_every_value_is_escaped(make):
    hostile = make(
        "kv_cache",
        error=HOSTILE,
        model={"name": HOSTILE},
        machine={"cpu": HOSTILE, "versions": {HOSTILE: HOSTILE}},
        device=HOSTILE,
        group=HOSTILE,
        faults=(Fault("x", HOSTILE, HOSTILE, HOSTILE),),
    )
    peer = make("peer:transformers(dtype='bf16')", error=HOSTILE, status="failed")
    for runs in ([hostile], [hostile, peer]):
        text = report.html(runs, compare(runs))
        assert not Page(text).attributes("script")
        assert "onload='x'" not in text
        assert not any("onload" in attributes for _, attributes in Page(text).tags)


def test_sessions_are_told_in_chapters_that_are_not_compared_with_each_other(make):
    first = (make("", group="one"), make("kv_cache", itl_s=0.005, group="one"))
    second = (make("kv_cache", group="two"),)
    text = report.html([*first, *second], compare(first), compare(second))
    assert text.count("<h3>Verdict</h3>") == 2


def test_a_report_without_comparison_lists_the_figures_alone(make):
    assert "<figure" in report.html([make("kv_cache")])


def test_a_failed_run_is_listed_with_its_error(make):
    runs = [make(""), make("kv_cache", status="failed", error="killed by SIGKILL", passes=(), metrics={}, build={})]
    assert "was not measured to the end (failed): killed by SIGKILL" in report.html(runs, compare(runs))


def test_the_why_names_the_terms_and_what_the_run_took_beside_them(page):
    assert "<h3>Why</h3>" in page
    assert "reading weights" in page
    assert "Against the baseline, reading weights shrank most" in page


def test_markdown_holds_a_table_with_one_line_a_run(runs, comparison):
    text = report.markdown(runs, comparison)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(runs)
    assert len({re.sub(r"\\\|", "", line).count("|") for line in table}) == 1
    assert "~~" in table[-1]


def test_markdown_marks_in_names_are_escaped(make):
    text = report.markdown([make("kv_cache", model={"name": "a|b*c<d>"})])
    assert r"a\|b\*c\<d>" in text


def test_csv_has_a_row_for_each_stated_metric_in_si_units(runs):
    rows = list(csv.DictReader(io.StringIO(report.csv(runs))))
    assert {row["run"] for row in rows} == {run.id for run in runs}
    rate = next(row for row in rows if row["run"] == runs[1].id and row["metric"] == "output_tok_per_s")
    assert float(rate["value"]) == runs[1].metrics["output_tok_per_s"]["value"]
    assert {row["is_valid"] for row in rows if row["run"] == runs[-1].id} == {"False"}
