"""What a sweep shows, over simulated queues."""

import json
from dataclasses import replace

import pytest

from labkit.core.goodput import Limits
from labkit.core.run import Fault
from labkit.runner.sweep import sweep_cells
from labkit.ui.figure import DARK, LIGHT
from labkit.ui.frontier import HEAD, Frontier
from labkit.ui.sweeping import html_page
from tests.runner.test_sweep import SWEEP, Queues
from tests.ui.test_plots import texts

LIMITS = Limits(ttft_s=0.5, tpot_s=0.05)


@pytest.fixture(scope="module")
def runs():
    return list(sweep_cells(SWEEP, measure=Queues()))


@pytest.fixture(scope="module")
def frontier(runs):
    return Frontier.of(runs, LIMITS)


def test_cells_stand_by_recipe_and_rate_and_the_ends_of_saturation_are_within_ten_percent(frontier):
    assert frontier.names == ("baseline", "kv_cache")
    for name, capacity in (("baseline", 5.0), ("kv_cache", 20.0)):
        points = frontier.series(name)
        rates = [point.rate_per_s for point in points]
        assert rates == sorted(rates)
        kept = max(rate for rate, point in zip(rates, points, strict=True) if point.is_kept_up)
        lost = min(rate for rate, point in zip(rates, points, strict=True) if not point.is_kept_up)
        assert lost <= 1.1 * kept
        assert kept == pytest.approx(capacity, rel=0.25), "90 requests: what this burst allows"
        (finding,) = [text for text in frontier.findings if text.startswith(name)]
        assert "keeps up with" in finding
        assert "within the limits" in finding


def test_the_rarest_percentile_that_can_be_told_is_shown_with_what_p99_lacks(frontier):
    for point in frontier.points:
        assert point.ttft is not None
        is_p99 = point.ttft.q == 99
        assert is_p99 == (point.ttft.missing == 0)
        assert ("p99 needs" in point.ttft.text) != is_p99


def test_the_table_has_a_row_a_cell_and_the_frame_plain_numbers(frontier):
    head, *rows = frontier.table()
    assert tuple(head) == HEAD
    assert len(rows) == len(frontier.points) == len(frontier.frame())
    assert {row[1] for row in rows} >= {"all at once", "1.00", "8.00"}
    assert json.loads(json.dumps(frontier.to_dict(), allow_nan=False))["cells"][0]["is_valid"]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_picture_states_what_was_found(frontier, theme):
    picture = frontier.plot(theme=theme)
    assert picture.png().startswith(b"\x89PNG")
    assert picture.alt == " ".join(frontier.findings)
    titles = texts(picture)
    assert any(title.endswith("time to first token") and title.startswith("p") for title in titles)
    assert {"baseline", "kv_cache"} <= titles


def test_the_same_cells_of_two_machines_are_told_apart(runs):
    others = [replace(run, id=f"{run.id}-other", machine={"fingerprint": "other"}) for run in runs]
    both = Frontier.of([*runs, *others], LIMITS)
    assert len(both.points) == 2 * len(Frontier.of(runs, LIMITS).points)
    names = ("baseline · machine 1", "baseline · machine 2", "kv_cache · machine 1", "kv_cache · machine 2")
    assert sorted(both.names) == sorted(names)


def test_an_invalid_cell_is_in_the_table_and_on_no_picture(runs):
    fault = Fault("drift", "seen", "allowed", "remedy")
    spoiled = Frontier.of([replace(run, faults=(fault,)) for run in runs], LIMITS)
    assert all(row[-1] == "INVALID(drift)" for row in spoiled.table()[1:])
    assert spoiled.plot() is None
    assert "INVALID(drift)" in spoiled._repr_mimebundle_()["text/plain"]


def test_the_page_holds_pictures_for_both_themes_and_asks_for_nothing_outside(frontier):
    page = html_page({"mine": frontier}, LIMITS)
    assert page.count("data:image/png;base64,") == 2
    assert "mine: queue under load, 90 requests a pass" in page
    assert "http" not in page
