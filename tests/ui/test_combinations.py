"""The table of combinations is what the catalog says, in the documents too."""

from itertools import combinations
from pathlib import Path

import pytest

from labkit import cli
from labkit.core.errors import UsageError
from labkit.optimizations import CATALOG, bind
from labkit.ui.combinations import clash, markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "combinations.md"


def test_the_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["catalog", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown() == DOCUMENT.read_text()


def test_every_technique_has_its_line() -> None:
    for kind in CATALOG:
        assert f"\n| `{kind.name}` | {kind.slot.value.replace('_', ' ')} |" in markdown()


@pytest.mark.parametrize(
    ("one", "other"),
    [pair for pair in combinations(CATALOG, 2) if clash(*pair)],
    ids=lambda kind: kind.name,
)
def test_a_refused_pair_is_refused_with_that_reason(one, other) -> None:
    with pytest.raises(UsageError) as caught:
        bind(f"{one.name} + {other.name}")
    assert clash(one, other).replace("`", "").split()[-1] in str(caught.value).replace("'", "")
