"""The figures behind each picture as rows of text, the first row the head, for readers who want or need them."""

from collections.abc import Callable, Sequence

from labkit.bench.comparison import Comparison
from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.language import tr
from labkit.ui.readings import QUALITY, is_answering, labels, limit_of, rate_of, reading, value
from labkit.ui.tables import percentile_cell
from labkit.ui.ways import FIGURES

Rows = list[Sequence[str]]


def charted(name: str, runs: Sequence[Run], comparison: Comparison | None) -> Rows:
    """The table of the picture of this name (`throughput`, `latency`, `phases`, `quality`, `memory`, …)."""
    names = labels(runs)
    valid = [run for run in runs if run.is_valid]
    head, read = {
        "throughput": _throughput(runs, comparison),
        "latency": _latency(runs),
        "phases": _phases(),
        "quality": _quality(valid),
        "memory": _memory(),
        "ways": _ways(),
        "scaling": _throughput(runs, comparison),
    }[name]
    return [(tr("recipe"), *map(tr, head)), *((names[run.id], *read(run)) for run in valid)]


_Reader = tuple[Sequence[str], Callable[[Run], Sequence[str]]]


def _throughput(runs: Sequence[Run], comparison: Comparison | None) -> _Reader:
    rates = [rate_of(runs)] if any(map(is_answering, runs)) else [rate_of(runs), rate_of(runs, "decode_tok_per_s")]
    decisions = {row.run_id: row.decision for row in comparison.rows} if comparison else {}

    def read(run: Run) -> Sequence[str]:
        decision = decisions.get(run.id)
        told = (
            text
            for rate in rates
            for text in (units.estimate(reading(run, rate.metric)), units.number(limit_of(run, rate.metric)))
        )
        return *told, units.ratio(decision.ratio.value) if decision else units.MISSING

    return (*(cell for rate in rates for cell in (rate.head, "its limit")), "of baseline"), read


def _latency(runs: Sequence[Run]) -> _Reader:
    titles = {"e2e_s": "query"} if any(map(is_answering, runs)) else {"itl_s": "ITL", "ttft_s": "TTFT"}
    percentiles = [(metric, q) for metric in titles for q in (50, 90, 95, 99)]
    head = [f"{titles[metric]} p{q}" for metric, q in percentiles]
    return head, lambda run: [percentile_cell(run, metric, q).line for metric, q in percentiles]


def _phases() -> _Reader:
    rates = ("prefill_tok_per_s", "decode_tok_per_s")
    head = ("prefill tok/s", "prefill limit", "decode tok/s", "decode limit")

    def read(run: Run) -> Sequence[str]:
        return [units.number(text) for rate in rates for text in (value(run, rate), limit_of(run, rate))]

    return head, read


def _quality(runs: Sequence[Run]) -> _Reader:
    measures = [name for name in QUALITY if any(name in run.quality for run in runs)]
    rate = rate_of(runs)
    head = (rate.head, *(QUALITY[name].title for name in measures))

    def read(run: Run) -> Sequence[str]:
        shown = (QUALITY[name].form(run.quality.get(name)) for name in measures)
        return units.number(value(run, rate.metric)), *shown

    return head, read


def _memory() -> _Reader:
    sizes, times = ("peak_memory_bytes", "weights_bytes"), ("load_s", "warmup_s")
    return ("peak", "weights", "load", "warm-up"), lambda run: [
        *(units.size(run.build.get(key)) for key in sizes),
        *(units.seconds(run.build.get(key)) for key in times),
    ]


def _ways() -> _Reader:
    return [shown.title for shown in FIGURES], lambda run: [shown.form(shown.read(run)) for shown in FIGURES]
