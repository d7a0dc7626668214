"""Charts of Runs: pure functions from Runs to a Picture. A Run that broke a rule is never drawn."""

from collections.abc import Mapping, Sequence

import numpy as np

from labkit.bench.comparison import Comparison
from labkit.core.metrics import LATENCIES
from labkit.core.run import Run
from labkit.core.stats import FloatArray
from labkit.ui import units
from labkit.ui.curve_chart import scaling
from labkit.ui.figure import LIGHT, Picture, Theme, canvas, caption, plain_legend, style
from labkit.ui.forecast import Forecast
from labkit.ui.language import tr
from labkit.ui.marks import BAR_HEIGHT, Drawn, annotate, bars, ecdf, limit_mark, number_ticks, recipe_ticks, unit_ticks
from labkit.ui.readings import QUALITY, is_answering, labels, limit_of, quality_measure, rate_of, value
from labkit.ui.ways import ways

_BAR_IN = 0.5
_HEAD_IN = 0.85
_TOKEN_LATENCIES = {"itl_s": "Inter-token latency", "ttft_s": "Time to first token"}
_QUERY_LATENCIES = {"e2e_s": "Query latency"}


def pictures(runs: Sequence[Run], comparison: Comparison | None, *, theme: Theme = LIGHT) -> list[Picture]:
    """Every chart that these Runs have data for, in the order a report shows them."""
    made = (
        throughput(runs, comparison, theme=theme),
        latency(runs, theme=theme),
        phases(runs, theme=theme),
        quality_speed(runs, theme=theme),
        memory(runs, theme=theme),
        ways(runs, theme=theme),
        scaling(runs, theme=theme),
    )
    return [picture for picture in made if picture is not None]


def throughput(runs: Sequence[Run], comparison: Comparison | None, *, theme: Theme = LIGHT) -> Picture | None:
    """The rate that verdicts are on, its interval, the factor over the baseline, and a mark at the machine's limit."""
    rate = rate_of(runs, comparison.metric if comparison else "")
    metric = rate.metric
    drawn = _drawn(runs, theme, metric)
    if not drawn:
        return None
    ratios = _ratios(comparison) if comparison and comparison.metric == metric else {}  # never those of a latency
    figure, (ax,) = canvas(theme, height_in=_HEAD_IN + _BAR_IN * len(drawn))
    bars(ax, drawn, metric, theme, ratios=ratios)
    caption(ax, theme, x=f"{rate.counted} per second  (upright mark: the machine's limit for this recipe)")
    name, _, best = max(drawn, key=lambda item: value(item[2], metric) or 0.0)
    finding = tr(
        "{name} has the highest {what}, {value}", name=name, what=tr(f"{rate.phase} rate"), value=rate.text(best)
    )
    if best.id in ratios:
        finding += tr(", {ratio} that of the baseline", ratio=units.ratio(ratios[best.id]))
    limit = limit_of(best, metric)
    if limit is not None:
        finding += tr("; the machine's limit for it is {limit}", limit=units.rate(limit))
    return Picture("throughput", tr("Throughput"), tr("{told}.", told=finding), figure)


def ahead(runs: Sequence[Run], forecast: Forecast, *, theme: Theme = LIGHT) -> Picture:
    """Decode rates that were measured, and hollow below them what the switched-on recipe should reach at its limit."""
    drawn = _drawn(runs, theme, "decode_tok_per_s")
    figure, (ax,) = canvas(theme, height_in=_HEAD_IN + _BAR_IN * (len(drawn) + 1))
    end = bars(ax, drawn, "decode_tok_per_s", theme, ratios={}, at_least=forecast.predicted_per_s)
    at, name = len(drawn), forecast.recipe or "baseline"
    ax.barh(at, forecast.predicted_per_s, height=BAR_HEIGHT, facecolor="none", edgecolor=theme.ink, linestyle="--")
    limit_mark(ax, forecast.limit_per_s, at, end, theme)
    beyond = forecast.limit_per_s if forecast.limit_per_s <= end else forecast.predicted_per_s
    annotate(ax, f"{units.number(forecast.predicted_per_s)} expected", beyond, at, theme)
    recipe_ticks(ax, [*(name for name, _, _ in drawn), f"{name} (switched on)"], theme)
    ax.set_xlim(0, end)
    caption(ax, theme, x="decode tokens per second  (dashed: expected, upright mark: the machine's limit)")
    return Picture("forecast", tr("Switched on"), tr("{name}: {told}", name=name, told=forecast.told(runs)), figure)


def latency(runs: Sequence[Run], *, theme: Theme = LIGHT) -> Picture | None:
    """Distributions of inter-token latency and time to first token, or of a query's; None without samples.

    p50, p90 and p99 are marked where the sample is large enough to state them.
    """
    drawn = [item for item in _drawn(runs, theme) if item[2].passes]
    if not drawn:
        return None
    shown = _QUERY_LATENCIES if any(map(is_answering, runs)) else _TOKEN_LATENCIES
    figure, axes = canvas(theme, columns=len(shown), height_in=3.3 + 0.21 * len(drawn))
    for ax, (metric, title) in zip(axes, shown.items(), strict=True):
        for name, look, run in drawn:
            ecdf(ax, _samples(run, metric), run, metric, name, look)
        ax.set_xscale("log")
        unit_ticks(ax, units.seconds)
        ax.set_ylim(0, 1.03)
        ax.set_yticks((0, 0.5, 0.9, 1), ("0", "50 %", "90 %", "100 %"))
        caption(ax, theme, title=title, x="latency, logarithmic")
    axes[0].set_ylabel("share of samples", color=theme.muted, fontsize=9)
    # below both panels, one recipe a line: names are long
    handles, names = axes[-1].get_legend_handles_labels()
    legend = figure.legend(
        handles, names, loc="outside lower left", frameon=False, fontsize=8.5, handlelength=4, labelcolor=theme.ink
    )
    plain_legend(legend)
    told = (
        _extremes(drawn, f"{metric}.p50", f"median {title.lower()}", units.seconds, has_low_first=True)
        for metric, title in shown.items()
    )
    finding = tr(" ").join(filter(None, told))
    return Picture("latency", tr("Latency distribution"), finding or tr("Too few samples to state a median."), figure)


def phases(runs: Sequence[Run], *, theme: Theme = LIGHT) -> Picture | None:
    """Prefill and decode apart: tokens per second of each, with the mark of the machine's limit."""
    drawn = _drawn(runs, theme, "decode_tok_per_s")
    if not drawn:
        return None
    figure, axes = canvas(theme, columns=2, height_in=_HEAD_IN + 0.3 + _BAR_IN * len(drawn))
    bars(axes[0], drawn, "prefill_tok_per_s", theme, ratios={}, num_charts=2)
    bars(axes[1], drawn, "decode_tok_per_s", theme, ratios={}, num_charts=2, has_names=False)
    caption(axes[0], theme, title="Prefill", x="prompt tokens per second")
    caption(axes[1], theme, title="Decode", x="output tokens per second")
    found = (
        _extremes(drawn, "prefill_tok_per_s", "prefill rate", units.rate, has_low_first=False),
        _extremes(drawn, "decode_tok_per_s", "decode rate", units.rate, has_low_first=False),
    )
    return Picture("phases", tr("Prefill and decode, apart"), tr(" ").join(filter(None, found)), figure)


def quality_speed(runs: Sequence[Run], *, theme: Theme = LIGHT) -> Picture | None:
    """What speed costs in quality: the rate of a pass against the quality measure that the Runs share."""
    measure = quality_measure(runs)
    rate = rate_of(runs)
    drawn = [item for item in _drawn(runs, theme, rate.metric) if measure in item[2].quality]
    if measure is None or not drawn:
        return None
    facts = QUALITY[measure]
    figure, (ax,) = canvas(theme, height_in=4.0 + 0.1 * len(drawn))
    if facts.ideal is not None:
        ax.axhline(facts.ideal, color=theme.muted, linewidth=1, linestyle="--")
    for name, look, run in drawn:
        at = value(run, rate.metric) or 0.0  # never: what has no rate is not drawn
        ax.plot([at], [run.quality[measure]], look.marker, color=look.color, markersize=9, label=name)
    ax.set_xscale("log")
    ax.margins(x=0.08, y=0.3)
    unit_ticks(ax, units.number)
    ax.ticklabel_format(axis="y", useOffset=False)
    plain_legend(figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, labelcolor=theme.ink))
    caption(ax, theme, x=f"{rate.counted} per second, logarithmic", y=f"{facts.title}, {facts.better} is better")
    name, _, fastest = max(drawn, key=lambda item: value(item[2], rate.metric) or 0.0)
    finding = tr(
        "The fastest, {name}, gives {rate} at {measure} {value}.",
        name=name,
        rate=rate.text(fastest),
        measure=tr(facts.title),
        value=facts.form(fastest.quality[measure]),
    )
    return Picture("quality", tr("Quality against speed"), finding, figure)


def memory(runs: Sequence[Run], *, theme: Theme = LIGHT) -> Picture | None:
    """Peak memory of the measuring process as an outline, the part that weights take filled."""
    drawn = [item for item in _drawn(runs, theme) if item[2].build.get("peak_memory_bytes") is not None]
    if not drawn:
        return None
    figure, (ax,) = canvas(theme, height_in=_HEAD_IN + _BAR_IN * len(drawn))
    for index, (_, look, run) in enumerate(drawn):
        peak, weights = run.build["peak_memory_bytes"], run.build.get("weights_bytes")
        ax.barh(index, peak / 2**20, height=BAR_HEIGHT, facecolor="none", edgecolor=look.color, linewidth=1.3)
        ax.barh(index, (weights or 0) / 2**20, height=BAR_HEIGHT, color=look.color)
        annotate(ax, f"{units.size(peak)}, of it weights {units.size(weights)}", peak / 2**20, index, theme)
    recipe_ticks(ax, [name for name, _, _ in drawn], theme)
    ax.set_xlim(0, 1.6 * max(run.build["peak_memory_bytes"] / 2**20 for _, _, run in drawn))
    number_ticks(ax)
    caption(ax, theme, x="MiB  (outline: peak of the measuring process, filled: weights)")
    name, _, least = min(drawn, key=lambda item: item[2].build["peak_memory_bytes"])
    peak = units.size(least.build["peak_memory_bytes"])
    finding = tr("{name} needs the least memory, a peak of {peak}.", name=name, peak=peak)
    return Picture("memory", tr("Memory"), finding, figure)


def _drawn(runs: Sequence[Run], theme: Theme, metric: str | None = None) -> list[Drawn]:
    """Valid Runs that have the metric; each recipe keeps its style from chart to chart."""
    names = labels(runs)
    return [
        (names[run.id], style(index, theme), run)
        for index, run in enumerate(runs)
        if run.is_valid and (metric is None or value(run, metric) is not None)
    ]


def _ratios(comparison: Comparison | None) -> Mapping[str, float]:
    rows = comparison.rows if comparison else ()
    return {row.run_id: row.decision.ratio.value for row in rows if row.decision is not None}


def _samples(run: Run, metric: str) -> FloatArray:
    """Every value of a latency, over all requests of all passes."""
    requests = (request for p in run.passes for request in p.trace.requests if request.output_s)
    return np.array([sample for request in requests for sample in LATENCIES[metric](request)])


def _extremes(drawn: Sequence[Drawn], metric: str, title: str, form: units.Formatter, *, has_low_first: bool) -> str:
    """Which recipe leads in a metric and which comes last, in one sentence; '' where none states it."""
    stated = [(at, name) for name, _, run in drawn if (at := value(run, metric)) is not None]
    if not stated:
        return ""
    stated.sort(reverse=not has_low_first)
    (best, leader), (worst, last) = stated[0], stated[-1]
    if len(stated) == 1:  # nothing to be ahead of
        return tr("{name} has a {what} of {value}.", name=leader, what=tr(title), value=form(best))
    told = "{name} has the lowest {what}, {value}" if has_low_first else "{name} has the highest {what}, {value}"
    sentence = tr(told, name=leader, what=tr(title), value=form(best))
    return tr("{told}.", told=sentence + tr("; {name} has {value}", name=last, value=form(worst)))
