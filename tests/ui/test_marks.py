"""Axes that speak in units: enough round ticks on any span, and names that break where they may."""

import pytest
from matplotlib.colors import to_hex

from labkit.ui import units
from labkit.ui.figure import DARK, canvas, wrapped
from labkit.ui.marks import unit_ticks


def tick_labels(low: float, high: float, form: units.Formatter) -> list[str]:
    figure, (ax,) = canvas(DARK, height_in=3.0)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    unit_ticks(ax, form)
    figure.canvas.draw()
    return [label.get_text() for label in ax.get_xticklabels()]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.19, 7300, ["1", "10", "100", "1,000"]),
        (2.6, 31, ["3", "10", "30"]),
        (620, 1960, ["700", "1,000", "1,500"]),
        (350, 620, ["400", "500", "600"]),
    ],
)
def test_a_logarithmic_axis_has_at_least_three_round_ticks(low: float, high: float, expected: list[str]) -> None:
    assert tick_labels(low, high, units.number) == expected


def test_a_tick_has_its_unit_and_no_zeros_behind_the_point() -> None:
    assert tick_labels(0.0008, 0.2, units.seconds) == ["1 ms", "10 ms", "100 ms"]


def test_small_ticks_have_the_colour_of_the_theme_too() -> None:
    _, (ax,) = canvas(DARK, height_in=3.0)
    ax.set_xscale("log")
    ax.set_xlim(1, 9)
    assert {to_hex(tick.tick1line.get_color()) for tick in ax.xaxis.get_minor_ticks()} == {DARK.muted}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("kv_cache + threads", ["kv_cache + threads"]),
        ("kv_cache + continuous_batching(max_batch=8)", ["kv_cache +", "continuous_batching(max_batch=8)"]),
        ("speculative_decoding(draft_model='small')", ["speculative_decoding(", "draft_model='small')"]),
        ("x" * 40, ["x" * 32, "x" * 8]),
        ("", [""]),
    ],
)
def test_a_name_breaks_between_words_before_it_breaks_within_one(name: str, lines: list[str]) -> None:
    assert wrapped(name).split("\n") == lines
