"""The table of combinations is what the catalog says, in the documents too."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from labkit import cli, optimizations
from labkit.core.errors import UsageError
from labkit.optimizations import CATALOG, Optimization, Slot
from labkit.optimizations.precision import Precision
from labkit.optimizations.quantize import Quantize
from labkit.optimizations.static_batching import StaticBatching
from labkit.optimizations.threads import Threads
from labkit.ui import combinations
from labkit.ui.combinations import clash, markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "combinations.md"


def test_the_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["catalog", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown() == DOCUMENT.read_text()


def test_every_technique_has_its_line() -> None:
    for kind in CATALOG:
        assert f"\n| `{kind.name}` | {kind.slot.value.replace('_', ' ')} |" in markdown()


@dataclass(frozen=True)
class Other(Optimization):
    """A technique that some others cannot stand with."""

    name: ClassVar[str] = "other"
    title: ClassVar[str] = "Other"
    slot: ClassVar[Slot] = Slot.SCHEDULER
    exact: ClassVar[bool] = True
    conflicts: ClassVar[dict[str, str]] = {"threads": "both count cores"}


def test_a_pair_clashes_over_a_slot_or_for_a_stated_reason_whichever_comes_first() -> None:
    for pair in ((Other, StaticBatching), (StaticBatching, Other)):
        assert clash(*pair) == "both fill the slot `scheduler`"
    for pair in ((Other, Threads), (Threads, Other)):
        assert clash(*pair) == "both count cores"
    assert clash(Other, Quantize) == clash(Quantize, Precision) == ""


def test_what_clashes_is_refused_and_listed_and_what_does_not_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = (*CATALOG, Other)
    monkeypatch.setattr(optimizations, "CATALOG", catalog)
    monkeypatch.setattr(combinations, "CATALOG", catalog)
    table = combinations.markdown()
    for kind in optimizations.techniques():
        if kind is Other:
            continue
        named = dict.fromkeys([*kind.requires, kind.name, "other"])
        reason = clash(kind, Other)
        assert (f"| `{kind.name}` | `other` | {reason} |" in table) is bool(reason)
        if reason:
            with pytest.raises(UsageError):
                optimizations.bind(" + ".join(named))
        elif not any(need.missing() for need in kind.needs):
            assert "other" in optimizations.bind(" + ".join(named)).recipe.names
