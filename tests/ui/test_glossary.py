"""The glossary names every metric there is, in both languages, and its document is made of it."""

import re
from pathlib import Path

import pytest

from labkit import cli
from labkit.core import metrics
from labkit.core.language import is_chinese
from labkit.ui.glossary import GLOSSARY, markdown
from labkit.ui.readings import QUALITY

ROOT = Path(__file__).parents[2]
TERMS = [term for group in GLOSSARY for term in group.terms]


def test_the_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["catalog", "--glossary"]) == 0
    assert capsys.readouterr().out == markdown() == (ROOT / "docs" / "glossary.md").read_text()


def test_every_metric_and_every_quality_has_its_formula() -> None:
    named = re.findall(r"^    ([a-z_0-9]+) {2,}\S", metrics.__doc__ or "", re.MULTILINE)
    assert {*metrics.RATES, *metrics.LATENCIES} <= set(named)
    assert {*named, *QUALITY} - {term.name for term in TERMS} == set()


def test_every_term_is_told_in_both_languages_and_once() -> None:
    for term in TERMS:
        assert term.formula
        assert is_chinese(term.said.zh), term.name
        assert is_chinese(term.title.zh) or term.title.zh == term.title.en
        assert not is_chinese(term.said.en + term.title.en)
    assert len({term.name for term in TERMS}) == len(TERMS)


def test_lessons_lead_to_it() -> None:
    assert "../docs/glossary.md" in (ROOT / "notebooks" / "README.md").read_text()
