import sys
from dataclasses import replace

import pytest

from labkit.core.metrics import RATES, summarize
from labkit.ui import plots
from labkit.ui.figure import DARK, LIGHT


def texts(picture):
    """Every text in a figure."""
    return {text.get_text() for text in picture.figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_pyplot_is_never_loaded(runs, comparison):
    plots.throughput(runs, comparison).png()
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_chart_is_drawn_as_png_with_its_finding(runs, comparison, theme):
    drawn = plots.pictures(runs, comparison, theme=theme)
    assert [picture.name for picture in drawn] == ["throughput", "latency", "phases", "quality", "memory"]
    for picture in drawn:
        assert picture.png().startswith(b"\x89PNG")
        assert picture.data_uri().startswith("data:image/png;base64,iVBOR")
        assert picture.alt.endswith(".")


def test_tokens_that_arrive_together_are_drawn_on_the_logarithmic_axis(make):
    run = make("kv_cache + speculative", num_blocks=40)
    together = []
    for item in run.passes:
        (request,) = item.trace.requests
        at = tuple(request.output_s[index - index % 4] for index in range(len(request.output_s)))
        together.append(replace(item, trace=replace(item.trace, requests=(replace(request, output_s=at),))))
    metrics = summarize([item.trace for item in together])
    assert metrics["itl_s.p50"]["value"] == 0
    picture = plots.latency([replace(run, passes=tuple(together), metrics=metrics)])
    assert picture.png().startswith(b"\x89PNG")
    assert "median inter-token latency of 0 s" in picture.alt


def test_an_invalid_run_is_on_no_chart(runs, comparison):
    assert not runs[-1].is_valid
    for picture in plots.pictures(runs, comparison):
        assert not any("bits=4" in text for text in texts(picture) | {picture.alt})


def test_the_alt_text_states_the_finding(runs, comparison):
    assert "quantize + kv_cache has the highest output rate" in plots.throughput(runs, comparison).alt
    assert "the machine's limit for it is" in plots.throughput(runs, comparison).alt
    assert "quantize + kv_cache has the lowest median inter-token latency" in plots.latency(runs).alt
    assert "at perplexity ratio 1.002" in plots.quality_speed(runs).alt
    assert "quantize + kv_cache needs the least memory" in plots.memory(runs).alt


def test_throughput_shows_the_metric_that_verdicts_are_on(make):
    from labkit.bench.comparison import compare

    pair = (make("", token_share=0.25), make("kv_cache", itl_s=0.005))
    comparison = compare(pair)
    assert comparison.metric == "decode_tok_per_s"
    assert comparison.metric in RATES
    assert "decode rate" in plots.throughput(pair, comparison).alt


def test_recipes_differ_in_marker_and_line_and_not_in_colour_alone(runs):
    figure = plots.latency(runs).figure
    drawn = [line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")]
    assert len({line.get_marker() for line in drawn}) == len(drawn) == 4
    assert len({line.get_linestyle() for line in drawn}) == len(drawn)


def test_a_run_that_alone_states_a_figure_is_not_called_first(make):
    assert "has a median inter-token latency of" in plots.latency([make("kv_cache", num_blocks=40)]).alt


def test_without_anything_to_draw_there_is_no_picture(make):
    failed = make("kv_cache", status="failed", error="out of memory", passes=(), metrics={})
    assert plots.pictures([failed], None) == []


def test_a_dollar_in_a_name_is_a_dollar(make):
    picture = plots.throughput([make("kv_cache(dtype='$x_1$')")], None)
    assert picture.png()
    assert any("$x_1$" in text for text in texts(picture))
