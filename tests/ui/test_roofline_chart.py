"""The roofline places each phase by its bytes and FLOPs, and under the limit that its own bound sets."""

import pytest

from labkit.core.cost import Cost, Phase
from labkit.ui import roofline_chart
from labkit.ui.figure import DARK, LIGHT
from labkit.ui.roofline_chart import points, roofline
from labkit.ui.show import roofline as shown

COST = Cost(
    {
        "prefill": Phase(1, 1, {"weights": 6e7}, {"fp32": 1.8e9}),
        "decode": Phase(63, 63, {"weights": 6e7}, {"fp32": 3e7}),
    }
).to_dict()


@pytest.fixture
def measured(make):
    return [make("kv_cache", cost=COST), make("quantize + kv_cache", limit_s=0.0005, cost=COST)]


def test_a_phase_stands_at_its_flops_for_each_byte(measured) -> None:
    prefill, decode = points(measured[:1])
    assert (prefill.intensity, decode.intensity) == (30.0, 0.5)
    assert (prefill.bound, decode.bound) == ("compute", "memory")


def test_the_roof_is_what_the_limit_allows_and_what_was_reached_its_share(measured) -> None:
    (run, _) = measured
    _, decode = points([run])
    assert decode.roof == pytest.approx(3e7 / run.limit["decode"]["step_s"])
    share = run.metrics["decode_tok_per_s"]["value"] / run.limit["decode_tok_per_s"]
    assert decode.reached == pytest.approx(share * decode.roof)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_it_is_drawn_with_its_finding_in_words(measured, theme) -> None:
    picture = roofline(measured, theme=theme)
    assert picture.png().startswith(b"\x89PNG")
    assert "decode computes 0.500 FLOP for each byte, is bound by memory" in picture.alt


def test_its_table_has_a_row_for_each_phase(measured) -> None:
    head, *rows = roofline_chart.rows(measured)
    assert [row[:2] for row in rows] == [
        (name, phase) for name in ("kv_cache", "quantize + kv_cache") for phase in ("prefill", "decode")
    ]
    assert all(len(row) == len(head) for row in rows)


def test_runs_without_a_known_cost_are_not_drawn(make) -> None:
    assert roofline([make("kv_cache")]) is None
    assert "nothing to draw" in shown([make("kv_cache")]).plain
