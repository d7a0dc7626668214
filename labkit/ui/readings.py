"""Reading a Run for display: its labels, metrics, limit and quality, each None where the Run has none."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labkit.bench.limit import share
from labkit.core.run import Run
from labkit.ui import units


@dataclass(frozen=True)
class Measure:
    """How a quality metric is named and shown. `ideal` is the value of an output equal to the reference's."""

    title: str
    form: units.Formatter
    better: Literal["lower", "higher"]
    ideal: float | None = None
    reference: str = "the fp32 reference"


QUALITY: Mapping[str, Measure] = {
    "perplexity_ratio": Measure("perplexity ratio", units.quality_ratio, "lower", 1.0),
    "kl_mean": Measure("mean KL divergence", units.number, "lower", 0.0),
    "kl_p99": Measure("p99 KL divergence", units.number, "lower", 0.0),
    "same_top1_rate": Measure("same top token", units.percent, "higher", 1.0),
    "perplexity": Measure("perplexity", units.number, "lower"),
    "recall_at_10": Measure("recall@10", units.percent, "higher", 1.0, "the ten neighbours that exact TF-IDF finds"),
    "accuracy": Measure("accuracy", units.percent, "higher", 1.0, "the topics of texts not trained on"),
    "macro_f1": Measure("macro-F1", units.percent, "higher", 1.0, "the topics of texts not trained on"),
    "precision_at_10": Measure("precision@10", units.percent, "higher", None, "the query's own module, or topic"),
}
"""Known quality metrics, the most telling first."""


@dataclass(frozen=True)
class Rate:
    """How a rate is named and shown: what is counted, in which phase or of what, and its unit."""

    metric: str
    counted: str
    phase: str
    unit: str

    @property
    def head(self) -> str:
        """`output tok/s`, `queries/s`."""
        return self.unit if self.metric == "requests_per_s" else f"{self.phase} {self.unit}"

    def text(self, run: Run) -> str:
        """The Run's value with its unit."""
        return units.rate(value(run, self.metric), self.unit)


_RATES: Mapping[str, Rate] = {
    "output_tok_per_s": Rate("output_tok_per_s", "output tokens", "output", "tok/s"),
    "decode_tok_per_s": Rate("decode_tok_per_s", "decode tokens", "decode", "tok/s"),
    "prefill_tok_per_s": Rate("prefill_tok_per_s", "prefill tokens", "prefill", "tok/s"),
    "requests_per_s": Rate("requests_per_s", "queries", "query", "queries/s"),
}


def rate_of(runs: Sequence[Run], metric: str = "") -> Rate:
    """The rate that these Runs are told by: this metric if it is one, else queries or output tokens."""
    return _RATES.get(metric) or _RATES["requests_per_s" if any(map(is_answering, runs)) else "output_tok_per_s"]


def reading(run: Run, metric: str) -> Mapping[str, Any] | None:
    """The Estimate's fields of a metric, or None where it was withheld or does not apply."""
    found = run.metrics.get(metric)
    return found if isinstance(found, Mapping) else None


def value(run: Run, metric: str) -> float | None:
    """The value of a metric without its interval."""
    found = reading(run, metric)
    return None if found is None else float(found["value"])


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """What each Run is called, by id: its recipe, with the device where the Runs are of several.

    Runs of one recipe and device are numbered from the second on, so that no two share a name.
    """
    has_devices = len({run.device for run in runs}) > 1
    named: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for run in runs:
        name = f"{run.label} · {run.device}" if has_devices else run.label
        seen[name] += 1
        named[run.id] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return named


def limit_of(run: Run, metric: str) -> float | None:
    """The machine's limit for a rate, in the rate's unit; None for what has none."""
    found = (run.limit or {}).get(metric)
    return None if found is None else float(found)


def share_of_limit(run: Run) -> float | None:
    """What part of the machine's limit the Run reached (1 = all).

    None where a Run is faster than a limit that was measured while the machine had other work: such a limit is too low.
    """
    reached = share(run.limit, run.metrics) if run.limit else None
    is_known = reached is None or reached <= 1 or run.limit is None or run.limit.get("is_calm", True)
    return reached if is_known else None


def is_answering(run: Run) -> bool:
    """Whether the System answers requests whole, so that its requests are told of and not its tokens."""
    return bool(run.model.get("system", "engine") != "engine")


def text_measures(runs: Sequence[Run]) -> list[str]:
    """All quality metrics of Systems of texts, which no single one of them stands for."""
    known = {name for run in runs if run.is_valid and is_answering(run) for name in run.quality}
    return [name for name in QUALITY if name in known]


def quality_measure(runs: Sequence[Run]) -> str | None:
    """The most telling quality metric that any of the valid Runs has."""
    return next((name for name in QUALITY if any(name in run.quality for run in runs if run.is_valid)), None)
